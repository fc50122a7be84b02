"""Explanations of texts: where relevance ends, and masks that are no padding."""

import pytest
import torch
from torch import nn

import relprop
from tests.helpers.methods import OF_TEXTS
from tests.helpers.plain import B, C, H, N, Plain, additive, assert_same, everything, fused, ids
from tests.relprop.test_masks import KEPT, Encoder


def test_relevance_ends_at_the_embeddings_and_not_at_their_norm():
    """Of a pre-norm model: all that arrives at the residual stream, and not one branch of it."""
    model, target = Plain(text=True), torch.arange(B) % C
    embeddings = []

    def tokens(self, x):
        embeddings.append(Plain.tokens(self, x))
        return embeddings[0]

    trace = relprop.record(Plain(text=True, tokens=tokens), ids())
    (expected,) = trace._read([embeddings[0]], target, "lrp", 0.0)
    found = relprop.record(model, ids()).source_relevance(target, rules="lrp", eps=0.0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("size", [B, N])
def test_tokens_of_torchs_encoder_are_those_of_the_text(size, norm_first):
    """Within it, tokens come before the batch."""
    x, model = torch.randint(0, 20, (size, N)), Encoder(False, norm_first, text=True)
    together = relprop.explain(model, x, 1, "lrp").relevance
    for b in range(B):
        alone = relprop.explain(model, x[b : b + 1], 1, "lrp").relevance[0]
        torch.testing.assert_close(together[b], alone)
    if size == B:
        kept = {"x": x, "padding_mask": ~KEPT[:, 0, 0]}
        found = everything(model, kept)
        assert_same(found, everything(Encoder(True, norm_first, text=True), kept))


class Causal(nn.Module):
    """Its mask [N, N] goes by the name that Hugging Face gives to padding."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Plain(text=True, read=lambda x: x[:, -1])

    def forward(self, x, attention_mask):
        return self.model(x, additive(attention_mask.bool()))


def test_a_causal_mask_of_as_many_tokens_as_samples_is_no_padding():
    triangle = torch.ones(N, N).tril()
    x = torch.randint(0, 20, (N, N))
    together = relprop.explain(Causal(), {"x": x, "attention_mask": triangle}, 1)
    alone = relprop.explain(Causal(), {"x": x[:1], "attention_mask": triangle}, 1)
    torch.testing.assert_close(together.relevance[:1], alone.relevance)


@pytest.mark.parametrize("mask", ["boolean", "additive"])
def test_a_token_without_keys_attends_to_nothing(mask):
    """As torch has it: padding on the left under a causal mask."""
    kept = torch.ones(N, N).tril().bool() & (torch.arange(N) >= 4)
    kept = kept.expand(B, H, N, N)
    mask = kept if mask == "boolean" else additive(kept)
    model = Plain(text=True, attend=fused, read=lambda x: x[:, -1])
    trace = relprop.record(model, {"x": ids(), "mask": mask})
    torch.testing.assert_close(trace.logits, model(ids(), mask).detach())
    for attention in trace.attention:
        assert attention[:, :, :4].eq(0).all()
        torch.testing.assert_close(attention[:, :, 4:].sum(-1), torch.ones(B, H, N - 4).double())
    for method in OF_TEXTS:
        assert relprop.explain_trace(trace, 1, method).relevance.isfinite().all()
