"""Padding and causal masks, in a model written out by hand and in torch's own modules."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from relprop import UnsupportedModel
from tests.helpers.methods import OF_ALL_INPUTS, OF_TEXTS
from tests.helpers.plain import (
    B,
    C,
    D,
    H,
    N,
    Plain,
    additive,
    assert_same,
    autograd_gradients,
    eager,
    everything,
    fused,
    ids,
    pixels,
)  # fmt: skip

PADDED = torch.tensor([0, 3, 6])
KEPT = (torch.arange(N) < (N - PADDED)[:, None])[:, None, None]  # [B, 1, 1, N], True takes part


def masked_in_place(q, k, v, mask):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    scores.masked_fill_(mask, -math.inf)
    attention = scores.softmax(-1)
    return attention @ v, attention


@pytest.mark.parametrize(
    "attend, mask",
    [
        (eager, additive(KEPT, torch.finfo(torch.float64).min)),
        (fused, KEPT),
        (fused, KEPT.expand(B, H, N, N)),
        (fused, additive(KEPT)),
        (masked_in_place, ~KEPT),
    ],
    ids=["eager, lowest", "fused, boolean", "fused, expanded", "fused, -inf", "masked_fill_"],
)
@pytest.mark.parametrize("text", [False, True], ids=["pixels", "ids"])
def test_masks(attend, mask, text):
    x = ids() if text else pixels()
    inputs = {"x": x, "mask": mask}
    usual = {"x": x, "mask": additive(KEPT)}
    expected = everything(Plain(text), usual)
    assert_same(everything(Plain(text, attend=attend), inputs), expected)
    out = ~KEPT.expand(B, H, N, N)
    assert all(maps[:, out].abs().max() == 0 for n, maps in expected.items() if "relev" in n)


@pytest.mark.parametrize("method", OF_TEXTS)
def test_padding_changes_nothing(method):
    model, x = Plain(text=True), ids()
    model.position.data[:] = model.position[:, :1]  # a shorter text has the same ones
    padded = relprop.record(model, {"x": x, "attention_mask": KEPT[:, 0, 0].long()})
    largest = 0
    for i, length in enumerate(N - PADDED):
        shorter = Plain(text=True)
        shorter.load_state_dict(model.state_dict())
        shorter.position = nn.Parameter(model.position[:, :length])
        alone = relprop.record(shorter, x[i : i + 1, :length])
        found = relprop.explain_trace(padded, i % C, method).relevance[i]
        expected = relprop.explain_trace(alone, i % C, method).relevance[0]
        torch.testing.assert_close(found[:length], expected, rtol=1e-9, atol=1e-12)
        assert found[length:].eq(0).all()
        largest = max(largest, found.abs().max())
    assert largest > 0


@pytest.mark.parametrize("method", OF_TEXTS)
def test_padding_of_a_text_changes_nothing_beside_a_token_of_the_models_own(method):
    class WithClassToken(Plain):
        def forward(self, x, attention_mask):
            return super().forward(x, attention_mask=F.pad(attention_mask, (1, 0), value=1))

    def tokens(self, x):
        own = self.position[:, :1].expand(len(x), -1, -1)
        return torch.cat([own, self.embed(x)], dim=1)

    model, x = WithClassToken(text=True, tokens=tokens), ids()
    mask = KEPT[:, 0, 0].long()
    padded, largest = relprop.record(model, {"x": x, "attention_mask": mask}), 0
    for i, length in enumerate(N - PADDED):
        alone = {"x": x[i : i + 1, :length], "attention_mask": mask[i : i + 1, :length]}
        alone = relprop.record(model, alone)
        found = relprop.explain_trace(padded, i % C, method).relevance[i]
        expected = relprop.explain_trace(alone, i % C, method).relevance[0]
        torch.testing.assert_close(found[:length], expected, rtol=1e-9, atol=1e-12)
        largest = max(largest, found.abs().max())
    assert largest > 0


def test_a_head_that_reads_a_token_of_padding_reads_its_row():
    """As it does of a text that is padded at its beginning, where the model reads the first."""
    model, kept, target = Plain(text=True), torch.arange(N) >= PADDED[:, None], torch.arange(B)
    inputs = {"x": ids(), "attention_mask": kept.long()}
    G = autograd_gradients(model, inputs["x"], None, inputs["attention_mask"])
    A = [a.detach() for a in model.maps]
    product = torch.eye(N).double()
    for g, a in zip(G, A, strict=True):
        product = (torch.eye(N).double() + (g * a).relu().mean(1)) @ product
    found = relprop.explain(model, inputs, target, "generic_attention").relevance
    torch.testing.assert_close(found, product[:, 0] * kept)
    found = relprop.explain(model, inputs, target, "raw_attention").relevance
    torch.testing.assert_close(found, A[-1].mean(1)[:, 0])
    weight = (G[-1][:, :, :1] * kept[:, None, None]).mean(-1, keepdim=True)
    cam = (A[-1] * weight).mean(1).clamp(min=0)
    for i in range(B):
        read = kept[i] | (torch.arange(N) == 0)
        values = cam[i][read][:, kept[i]]
        expected = (cam[i, 0] - values.min()) / (values.max() - values.min()) * kept[i]
        found = relprop.explain(model, inputs, target, "gradcam").relevance[i]
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("method", OF_ALL_INPUTS)
def test_a_mask_of_the_patches_of_a_picture(method):
    mask = torch.ones(B, N, dtype=torch.long)
    expected = relprop.explain(Plain(), pixels(), 1, method).relevance
    found = relprop.explain(Plain(), {"x": pixels(), "attention_mask": mask}, 1, method).relevance
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("method", ["generic_attention", "rollout", "lrp", "attnlrp"])
def test_a_mask_of_a_text_whose_tokens_are_merged_between_blocks(method):
    """As Funnel does: which token of a block is padding is not known, and nothing asks for it."""

    class Merging(Plain):
        def forward(self, x, attention_mask=None):
            return super().forward(x)

    def merged(x):
        return x.unflatten(1, (-1, 2)).mean(2) if x.shape[1] == N else x

    model, mask = Merging(text=True, between=merged), torch.ones(B, N, dtype=torch.long)
    expected = relprop.explain(model, ids(), 1, method).relevance
    found = relprop.explain(model, {"x": ids(), "attention_mask": mask}, 1, method).relevance
    assert expected.std() > 0
    torch.testing.assert_close(found, expected)
    with pytest.raises(UnsupportedModel, match="not the last tokens of a block"):
        relprop.explain(model, {"x": ids(), "attention_mask": mask}, 1, "gradcam")


def test_causal():
    """The head reads the last token, which sees all."""
    triangle = additive(torch.ones(N, N, dtype=torch.bool).tril())
    attends = (lambda *x: fused(*x, is_causal=True), lambda *x: eager(*x, triangle))
    found, expected = (
        everything(Plain(attend=attend, read=lambda x: x[:, -1]), pixels()) for attend in attends
    )
    assert_same(found, expected)


# ---------------------------------------------------------------------- torch's own modules


class Encoder(nn.Module):
    """torch's encoder, or the same weights used by hand."""

    def __init__(self, by_hand: bool, norm_first: bool, text: bool = False) -> None:
        super().__init__()
        plain = Plain(text)
        self.tokens, self.head = plain.tokens, plain.head
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(
            D, H, 2 * D, dropout=0.1, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)
        self.by_hand, self.norm_first = by_hand, norm_first
        self.double().eval()
        for parameter in self.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)

    def attend(self, layer, x: Tensor, mask) -> Tensor:
        own = layer.self_attn
        q, k, v = F.linear(x, own.in_proj_weight, own.in_proj_bias).chunk(3, -1)
        heads = (y.unflatten(-1, (H, -1)).transpose(1, 2) for y in (q, k, v))
        return own.out_proj(eager(*heads, mask)[0].transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, padding_mask=None, attention_mask=None) -> Tensor:
        x = self.tokens(x)
        if not self.by_hand:
            x = self.encoder(x, attention_mask, padding_mask)
            return self.head(x[:, 0])
        mask = 0 if padding_mask is None else additive(~padding_mask[:, None, None])
        mask = mask if attention_mask is None else mask + attention_mask
        for layer in self.encoder.layers:

            def mlp(x, layer=layer):
                return layer.linear2(F.relu(layer.linear1(x)))

            if self.norm_first:
                x = x + self.attend(layer, layer.norm1(x), mask)
                x = x + mlp(layer.norm2(x))
            else:
                x = layer.norm1(x + self.attend(layer, x, mask))
                x = layer.norm2(x + mlp(x))
        return self.head(x[:, 0])


TRIANGLE = additive(torch.ones(N, N, dtype=torch.bool).tril())
TRIANGLE[0] = 0  # what the head reads sees all


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"padding_mask": ~KEPT[:, 0, 0]},
        {"attention_mask": TRIANGLE},
        {"attention_mask": TRIANGLE, "padding_mask": ~KEPT[:, 0, 0]},
    ],
    ids=lambda masks: " and ".join(masks) or "no mask",
)
def test_multi_head_attention(norm_first, masks):
    inputs = {"x": pixels()} | masks
    found = everything(Encoder(False, norm_first), inputs)
    assert_same(found, everything(Encoder(True, norm_first), inputs))


WIDTHS = {"query": D, "key": 8, "value": 6}  # of one that has weights of their own for each
MASKS = {
    "boolean, of keys": {"key_padding_mask": ~KEPT[:, 0, 0]},
    "boolean, of pairs": {"attn_mask": TRIANGLE.isinf()},
    "of each head": {"attn_mask": TRIANGLE.isinf().expand(B * H, N, N)},
    "both": {"attn_mask": TRIANGLE, "key_padding_mask": additive(KEPT[:, 0, 0])},
}


class Attending(nn.Module):
    """One layer of attention by torch's function, or the same weights used by hand."""

    def __init__(self, by_hand: bool, **options) -> None:
        super().__init__()
        torch.manual_seed(0)
        plain = Plain()
        self.tokens, self.head, self.by_hand, self.options = (
            plain.tokens,
            plain.head,
            by_hand,
            options,
        )
        self.projections = nn.ModuleDict({n: nn.Linear(width, D) for n, width in WIDTHS.items()})
        self.out = nn.Linear(D, D)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        given = {name: x[..., :width] for name, width in WIDTHS.items()}
        layers = self.projections
        if self.by_hand:
            heads = (layers[n](given[n]).unflatten(-1, (H, -1)).transpose(1, 2) for n in WIDTHS)
            mask = sum(
                additive(~m) if m.dtype == torch.bool else m
                for m in (
                    m[:, None, None] if name == "key_padding_mask" else m[0] if m.ndim == 3 else m
                    for name, m in self.options.items()
                )
            )
            y = self.out(eager(*heads, mask)[0].transpose(1, 2).flatten(2))
        else:
            weights = {f"{n[0]}_proj_weight": layer.weight for n, layer in layers.items()}
            y, _ = F.multi_head_attention_forward(
                *(z.transpose(0, 1) for z in given.values()), D, H, None,
                torch.cat([layer.bias for layer in layers.values()]), None, None, False, 0.0,
                self.out.weight, self.out.bias, training=False, need_weights=False,
                use_separate_proj_weight=True, **weights, **self.options,
            )  # fmt: skip
            y = y.transpose(0, 1)
        return self.head((x + y)[:, 0])


@pytest.mark.parametrize("name", MASKS)
def test_multi_head_attention_as_a_function(name):
    found, expected = (Attending(by_hand, **MASKS[name]) for by_hand in (False, True))
    torch.testing.assert_close(found(pixels()), expected(pixels()))
    assert_same(everything(found, pixels()), everything(expected, pixels()))


@pytest.mark.parametrize("option", ["add_bias_kv", "add_zero_attn"])
def test_multi_head_attention_with_keys_of_its_own_is_refused(option):
    class Model(Encoder):
        def forward(self, x):
            x = self.tokens(x)
            return self.head((x + own(x, x, x, need_weights=False)[0])[:, 0])

    own = nn.MultiheadAttention(D, H, batch_first=True, **{option: True}).double()
    with pytest.raises(UnsupportedModel, match="bias_k, bias_v, add_zero_attn or static keys"):
        relprop.explain(Model(False, False), pixels())
