"""The form of AGF for transformers, forwards and backwards by hand; what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from relprop import UnsupportedModel, rules
from relprop.rules import agf
from relprop.rules.agf import probability
from relprop.walks.guided import of_attention
from tests.helpers.plain import Plain, pixels

EPS = 1e-9


def close(found: Tensor, expected: Tensor, atol: float) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def step_1(R, x, weight) -> Tensor:
    """C of x [B, N, I], R [B, N, O], one output at a time."""
    C = torch.zeros_like(x)
    for o in range(len(weight)):
        products = x.abs() * weight[o].abs()
        C += products * (R[..., o] / (products.sum(-1) + EPS))[..., None]
    return C


def step_sum(R, a, b) -> tuple[Tensor, Tensor]:
    S = R / (a.abs() + b.abs() + EPS)
    return a.abs() * S, b.abs() * S


def step_product(R, A, B) -> tuple[Tensor, Tensor]:
    """Of [..., n, k] and [..., k, m]: each summand has its share, half of it for each factor."""
    terms = A.abs()[..., :, :, None] * B.abs()[..., None, :, :]
    shares = terms / (terms.sum(dim=-2, keepdim=True) + EPS) * R[..., :, None, :] / 2
    return shares.sum(dim=-1), shares.sum(dim=-3)


def by_hand(model: Plain, x: Tensor, target: int, guided: bool) -> Tensor:
    """Relevance of the tokens before the first block, forwards and backwards by hand."""
    blocks = []
    for block in model.blocks:
        u = block.norm1(x)
        q, k, v = block.heads(u)
        A = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        o = (A @ v).transpose(1, 2).flatten(2)
        branch = block.out(o)
        middle = x + branch
        n = block.norm2(middle)
        h = F.relu(block.fc1(n))
        x = (end := middle + block.fc2(h))
        blocks.append((u, q, k, v, A, o, branch, middle, n, h, end))
    read = model.norm(x)[:, 0]
    p = probability(model.head(read), torch.full((len(x),), target)).sum()
    inputs = [read, *(values[0] for values in blocks)]
    g_read, *g_inputs = torch.autograd.grad(p, inputs)
    R = torch.zeros_like(x)
    R[:, 0] = read * g_read
    for block, values, g in zip(model.blocks[::-1], blocks[::-1], g_inputs[::-1], strict=True):
        u, q, k, v, A, o, branch, middle, n, h, end = values
        R, of_mlp = step_sum(R, middle, end - middle)
        R = R + step_1(step_1(of_mlp, h, block.fc2.weight), n, block.fc1.weight)
        R, of_branch = step_sum(R, middle - branch, branch)
        of_o = step_1(of_branch, o, block.out.weight)
        of_A, of_v = step_product(of_o.unflatten(-1, (2, -1)).transpose(1, 2), A, v)
        of_q, of_k = step_product(of_A, q, k.mT)
        parts = [y.transpose(1, 2).flatten(2) for y in (of_q, of_k.mT, of_v)]
        C = step_1(torch.cat(parts, dim=-1), u, block.qkv.weight)
        if guided:
            E = (u * g).sum(-1, keepdim=True).relu() * (C != 0)
            E = E * (C.abs().sum((1, 2)) / E.sum((1, 2)))[:, None, None]
            C = C + E - E.mean((1, 2), keepdim=True)
        R = R + C
    return R


@pytest.mark.parametrize("name, guided", [("agf", True), ("agf_without_gradient", False)])
def test_the_form_for_transformers(name, guided):
    model, target = Plain(), torch.tensor([2, 2, 2])
    trace = relprop.record(model, pixels())
    before = trace._ends.embedded(trace.sources[0])
    (found,) = trace._read([before], target, name, EPS)
    expected = by_hand(model, before.detach().requires_grad_(), 2, guided)
    close(found, expected.detach(), 1e-7 * float(expected.detach().abs().max()))


def test_queries_keys_and_values_by_layers_of_their_own_are_one(tiny_vit, images):
    model = tiny_vit()
    expected = relprop.explain(model, images, 1, "agf").relevance
    for block in model.blocks:
        layer = block.attn.qkv

        def apart(x, layer=layer):
            parts = zip(layer.weight.chunk(3), layer.bias.chunk(3), strict=True)
            return torch.cat([F.linear(x, *part) for part in parts], dim=-1)

        layer.forward = apart
    found = relprop.explain(model, images, 1, "agf").relevance
    close(found, expected, 1e-9 * float(expected.abs().max()))


def test_a_convolution_of_scores_makes_no_queries():
    """As DAPE has it."""
    torch.manual_seed(0)
    mix = nn.Conv2d(2, 2, 1, dtype=torch.float64)

    def attend(q, k, v, mask=None):
        attention = mix(q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return attention @ v, attention

    trace = relprop.record(Plain(attend=attend), pixels())
    assert [node.call.shapes[1] for node, _ in of_attention(trace._recording)] == [(36, 12)] * 3


def test_why_a_class_rather_than_another(tiny_vit, images):
    trace = relprop.record(tiny_vit(), images)
    maps = [
        relprop.explain_trace(trace, *pair, against=other).relevance
        for pair, other in (((1, "agf_without_gradient"), 2), ((2, "agf_without_gradient"), 1))
    ]
    close(maps[0], -maps[1], 1e-12)
    assert maps[0].any()


# ------------------------------------------------------------------------------- what is refused


def test_models_to_which_it_does_not_apply():
    numbers = torch.randn(2, 6)
    layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(UnsupportedModel, match="agf is of convolutional networks and of attention"):
        relprop.explain(layers, numbers, 1, "agf")


def test_one_output_is_no_class(tiny_vit, images):
    with pytest.raises(UnsupportedModel, match="the model has one output; accepted: two classes"):
        relprop.explain(tiny_vit(num_classes=1), images, 0, "agf")


def test_its_rules_are_of_relevance_alone(tiny_vit, images):
    model = tiny_vit()
    with pytest.raises(ValueError, match="rules: those of agf begin below the logits"):
        relprop.explain(model, images, 1, "transformer_attribution", rules=agf())
    own = rules.PAPER | {"linear": agf().rules("linear", 0, 3)}
    with pytest.raises(ValueError, match="rules: that of 'linear' wants the gradient; accepted"):
        relprop.explain(model, images, 1, "lrp", rules=own)


class TokensFirst(Plain):
    """[N, B, D] between the blocks."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x).transpose(0, 1)
        for block in self.blocks:
            q, k, v = block.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 1, 3, 0, 4).unbind()
            y = (q @ k.mT).softmax(-1) @ v  # [B, H, N, d]
            x = x + block.out(y.permute(2, 0, 1, 3).flatten(2))
        return self.head(x[0])


def test_tokens_before_samples_are_refused():
    with pytest.raises(UnsupportedModel, match=r"are made of a tensor of shape \[10, 3, 12\]"):
        relprop.explain(TokensFirst(), pixels(), 1, "agf")


class OfTorch(Plain):
    """A block of torch's attention, or the same written out with one layer for q, k and v."""

    def __init__(self, batch_first: bool, by_hand: bool = False) -> None:
        super().__init__()
        self.by_hand, self.batch_first = by_hand, batch_first
        options = {"batch_first": batch_first, "dtype": torch.float64}
        self.attention = nn.MultiheadAttention(12, 2, **options)

    def forward(self, x: Tensor) -> Tensor:
        x, own = self.tokens(x), self.attention
        if self.by_hand:
            qkv = F.linear(x, own.in_proj_weight, own.in_proj_bias)
            q, k, v = qkv.unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4).unbind()
            y = own.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        elif self.batch_first:
            y = own(x, x, x)[0]
        else:
            tokens_first = x.transpose(0, 1)
            y = own(tokens_first, tokens_first, tokens_first)[0].transpose(0, 1)
        return self.head((x + y)[:, 0])


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_of_torch_is_as_written_out_and_as_one_by_one(batch_first):
    model = OfTorch(batch_first)
    together = relprop.explain(model, pixels(), 1, "agf").relevance
    alone = [relprop.explain(model, x[None], 1, "agf").relevance[0] for x in pixels()]
    by_hand = relprop.explain(OfTorch(batch_first, by_hand=True), pixels(), 1, "agf").relevance
    for expected in (torch.stack(alone), by_hand):
        close(together, expected, 1e-9 * float(together.abs().max()))
