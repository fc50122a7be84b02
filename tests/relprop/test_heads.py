"""Whatever a head does with the tokens after the last block, the rows that it reads are read."""

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import ParallelScalingBlock
from torch import Tensor, nn

import relprop
from relprop import UnsupportedModel
from tests.helpers.methods import OF_ALL_INPUTS
from tests.helpers.plain import B, C, D, N, Plain, autograd_gradients, eager, pixels

TARGET = torch.arange(B) % C
OF_CHAINS = [
    "transformer_attribution", "generic_attention", "rollout", "without_gradient",
    "without_relevance",
]  # fmt: skip
OF_A_BLOCK = ["raw_attention", "gradcam", "partial_lrp", "last_block", "second_block"]


def table(rows: int) -> Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(3)).double()


PROTOTYPES = table(C)
# Heads of which class c has the c-th of prototypes; some have as many classes as there are tokens.
CLASS_TOKEN_ALONE = {
    "distances": lambda x: -(x[:, 0].unsqueeze(1) - PROTOTYPES).pow(2).sum(-1),
    "distances, of [1, C, D]": lambda x: -((x[:, 0][:, None] - PROTOTYPES[None]) ** 2).sum(-1),
    "distances from prototypes": lambda x: -(PROTOTYPES - x[:, :1]).pow(2).sum(-1),
    "of as many classes as tokens": lambda x: -(x[:, 0][:, None] - table(N)).pow(2).sum(-1)[:, :C],
    "of the class token expanded": lambda x: -(x[:, :1].expand(-1, N, -1) - table(N))
    .pow(2).sum(-1)[:, 3 : 3 + C],
    "a table": lambda x: F.gelu(x[:, 0][:, None] + PROTOTYPES[None]).sum(-1),
    "a table, as many rows as tokens": lambda x: F.gelu(x[:, 0][:, None] + table(N)).sum(-1)[:, :C],
    "cosines": lambda x: F.linear(F.normalize(x[:, 0], dim=-1), F.normalize(PROTOTYPES, dim=-1)),
    "a residual MLP": lambda x: F.linear(x[:, 0] + F.gelu(x[:, 0] @ table(D)), PROTOTYPES),
    "a residual MLP on [B, 1, D]": lambda x: F.linear(x[:, :1] + F.gelu(x[:, :1] @ table(D)),
                                                     PROTOTYPES)[:, 0],
}  # fmt: skip


def with_head(read) -> Plain:
    model = Plain(read=read)
    model.head = nn.Identity()
    return model


def slow_product(blocks: list[Tensor]) -> Tensor:
    """The class token's row of (I + C^L) ... (I + C^1), multiplied as they stand: [B, N]."""
    product = torch.eye(N).double()
    for block in blocks:
        product = (torch.eye(N).double() + block) @ product
    return product[:, 0]


@pytest.mark.parametrize("name", CLASS_TOKEN_ALONE)
def test_a_head_on_the_class_token_reads_its_row(name):
    """Of every class, by gradients that are autograd's and attention that is the model's."""
    model, x = with_head(CLASS_TOKEN_ALONE[name]), pixels()
    for target in range(C):
        y = model(x)
        G = torch.autograd.grad(y[:, target].sum(), model.maps)
        A = [a.detach() for a in model.maps]
        found = relprop.explain(model, x, target, "generic_attention")
        expected = slow_product([(g * a).relu().mean(1) for g, a in zip(G, A, strict=True)])
        torch.testing.assert_close(found.relevance, expected[:, 1:])
        assert (found.relevance.sum(dim=1) > 0).all()
        found = relprop.explain(model, x, target, "raw_attention")
        torch.testing.assert_close(found.relevance, A[-1].mean(1)[:, 0, 1:])
        found = relprop.explain(model, x, target, "transformer_attribution")
        R = relprop.record(model, x).relevance(torch.full((B,), target))
        expected = slow_product([(g * r).relu().mean(1) for g, r in zip(G, R, strict=True)])
        torch.testing.assert_close(found.relevance, expected[:, 1:], rtol=1e-6, atol=1e-12)


# Heads that add tokens to each other: each reads several.
OF_SEVERAL_TOKENS = {
    "to themselves, turned around": lambda x: (x - x.flip(1)).pow(2).sum(-1)[:, :C],
    "to the class token": lambda x: (x + F.relu(x[:, :1])).pow(2).sum(-1)[:, 2 : 2 + C],
    "to what is made of them": lambda x: F.linear(x + F.gelu(x @ table(D)), PROTOTYPES).mean(1),
    "to their mean": lambda x: F.linear((x - x.mean(1, keepdim=True)).pow(2), PROTOTYPES).mean(1),
    "to prototypes": lambda x: -(x[:, :, None] - PROTOTYPES).pow(2).sum(-1).mean(1),
}


OF_SUMS = ("to themselves, turned around", "to the class token", "to what is made of them")


@pytest.mark.parametrize("name", OF_SEVERAL_TOKENS)
def test_rows_are_weighted_by_the_relevance_of_the_last_blocks_tokens(name):
    streams = []

    def between(x):
        streams.append(x)
        return x

    model = with_head(OF_SEVERAL_TOKENS[name])
    model.spelled["between"] = between
    trace = relprop.record(model, pixels())
    (held,) = trace._read([streams[-1]], TARGET, "paper", 0.0)
    held = held.sum(dim=-1).abs()
    found = trace.token_weights(TARGET, eps=0.0)
    if name in OF_SUMS:  # tokens, too: their sum is read in place of the last block's
        assert found.sum(dim=1).allclose(torch.ones(B).double())
    else:
        torch.testing.assert_close(found, held / held.sum(dim=1, keepdim=True))
    for method in OF_ALL_INPUTS:
        assert relprop.explain_trace(trace, TARGET, method).relevance.isfinite().all()


def test_distances_by_a_function_without_a_rule_are_refused_by_its_name():
    def read(x):
        return -torch.cdist(x[:, :1], PROTOTYPES.expand(len(x), -1, -1))[:, 0]

    with pytest.raises(UnsupportedModel, match="no relevance rule for torch.*cdist; register one"):
        relprop.explain(with_head(read), pixels())


@pytest.mark.parametrize(
    "attend, add",
    [
        (lambda q, k, v: eager(q, k, v), lambda x, y: (x + y) / 2),
        (lambda q, k, v: eager(k, q, v), torch.add),
    ],
    ids=["scaled sums", "keys as queries"],
)
def test_what_is_a_chain_is_not_refused(attend, add):
    model = Plain(attend=attend, add=add)
    trace = relprop.record(model, pixels())
    torch.testing.assert_close(trace.gradient(TARGET), autograd_gradients(model, pixels()))
    for method in OF_ALL_INPUTS:
        assert relprop.explain_trace(trace, TARGET, method).relevance.isfinite().all()


def test_blocks_side_by_side_with_their_mlp_are_a_chain(tiny_vit, images):
    """(mlp(x) + attention(x)) + x, and scores that a block hands on to the next."""
    model = tiny_vit(block_fn=ParallelScalingBlock)
    assert relprop.explain(model, images, 1).relevance.std() > 0
    kept = []

    def attend(q, k, v):
        scores = q @ k.mT / 2 + (kept[-1] if len(kept) % 3 else 0)
        kept.append(scores)
        attention = scores.softmax(-1)
        return attention @ v, attention

    assert relprop.explain(Plain(attend=attend), pixels(), 1).relevance.std() > 0
