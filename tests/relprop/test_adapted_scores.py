"""Convolutions over attention scores, as DAPE has them: each walk against plain torch and loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from lightning_modules.models.dape import AdaptedScores, Dape
from tests.helpers.corrected import Half
from tests.helpers.methods import OF_ALL_INPUTS
from tests.helpers.plain import B, C, H, N, Plain, additive, assert_same, autograd_gradients, ids
from tests.helpers.products import METHODS, chain

KINDS = {"kerple": Dape(width=3), "kernel 1": Dape(kernel=1), "no bias": Dape("none", width=5)}
PADDED = torch.tensor([0, 3, 6])
KEPT = (torch.arange(N) < (N - PADDED)[:, None])[:, None, None]  # [B, 1, 1, N], True takes part
TARGET = torch.arange(B) % C


def layer(options: Dape, heads: int = H) -> AdaptedScores:
    torch.manual_seed(1)
    return AdaptedScores(heads, options).double()


def attention_by(module: AdaptedScores):
    """Attention of ``Plain`` with adapted scores."""

    def attend(q, k, v, mask=None):
        real = None if mask is None else mask == 0
        scores = module(q @ k.mT / math.sqrt(q.shape[-1]), real)
        attention = (scores if mask is None else scores + mask).softmax(-1)
        return attention @ v, attention

    return attend


def model_and_inputs(options: Dape, padded: bool):
    model = Plain(text=True, attend=attention_by(layer(options)))
    return model, {"x": ids()} | ({"mask": additive(KEPT)} if padded else {})


# ----------------------------------------------------- attention, its gradient, maps made of both


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_of_the_softmax_and_its_gradient(kind, padded):
    model, inputs = model_and_inputs(KINDS[kind], padded)
    G = autograd_gradients(model, *inputs.values())
    A = [x.detach() for x in model.maps]
    trace = relprop.record(model, inputs)
    found = {
        "attention": torch.stack(trace.attention),
        "of it": torch.stack(trace.gradient(TARGET)),
    }
    assert_same(found, {"attention": torch.stack(A), "of it": torch.stack(G)})
    R = trace.relevance(TARGET)
    for method in METHODS:
        weights = {"transformer_attribution": R, "generic_attention": A, "rollout": A}[method]
        blocks = [(g * r).relu().mean(1) for g, r in zip(G, weights, strict=True)]
        blocks = [a.mean(1) for a in A] if method == "rollout" else blocks
        expected = chain(blocks, method)[:, 0]
        found = relprop.explain_trace(trace, TARGET, method, **keywords(method)).relevance
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * expected.max().item())


@pytest.mark.parametrize("method", METHODS)
def test_convolved_scores_are_scores_wherever_they_stand(method):
    """First in the sum with the others, or alone."""
    module = layer(KINDS["no bias"])

    def spelled(scores_of):
        def attend(q, k, v, mask=None):
            attention = scores_of(q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
            return attention @ v, attention

        return relprop.record(Plain(text=True, attend=attend), ids())

    last, first, alone = map(spelled, (module, lambda s: module.mlp(s) + s, module.mlp))
    usual, swapped = (relprop.explain_trace(x, TARGET, method).relevance for x in (last, first))
    torch.testing.assert_close(swapped, usual, rtol=1e-9, atol=1e-14)
    assert len(alone.attention) == 3
    assert relprop.explain_trace(alone, TARGET, method).relevance.std() > 0


def keywords(method: str) -> dict:
    return {} if method == "rollout" else {"normalize_rows": False}


@pytest.mark.parametrize("method", OF_ALL_INPUTS)
def test_a_padded_text_is_explained_as_alone(method):
    model, inputs = model_and_inputs(KINDS["kerple"], True)
    model.position.data[:] = model.position[:, :1]
    mask = {"x": inputs["x"], "attention_mask": KEPT[:, 0, 0].long()}
    padded = relprop.explain(model, mask, TARGET, method).relevance
    for i, length in enumerate(N - PADDED):
        shorter = Plain(text=True, attend=model.spelled["attend"])
        state = model.state_dict() | {"position": model.position[:, :length]}
        shorter.position = nn.Parameter(model.position[:, :length])
        shorter.load_state_dict(state)
        alone = relprop.explain(shorter, inputs["x"][i : i + 1, :length], TARGET[i], method)
        torch.testing.assert_close(
            padded[i, :length],
            alone.relevance[0],
            rtol=1e-8,
            atol=1e-10 * padded.abs().max().item(),
        )
        assert padded[i, length:].eq(0).all()


# --------------------------------------------------- relevance, walked back with slow rules

n, d, heads = 4, 3, 2


class Scored(nn.Module):
    """One layer of attention and a head, without a residual: x [B, n, 2 d] to logits [B, 3]."""

    def __init__(self, options: Dape, biased: bool) -> None:
        super().__init__()
        self.scores = layer(options, heads)
        torch.manual_seed(2)
        self.q, self.k, self.v, self.head = (
            nn.Linear(heads * d, size, bias=False, dtype=torch.float64)
            for size in (*(heads * d,) * 3, 3)
        )
        if not biased:
            for convolution in (self.scores.mlp[0], self.scores.mlp[2]):
                nn.init.zeros_(convolution.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (f(x).unflatten(2, (heads, d)).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = self.scores(q @ k.mT * d**-0.5, mask)
        scores = scores if mask is None else scores + additive(mask)
        return self.head((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)[:, 0])


def x_and_mask(padded: bool) -> tuple[Tensor, Tensor | None]:
    x = torch.randn(2, n, heads * d, generator=torch.Generator().manual_seed(3)).double()
    mask = torch.tensor([[True] * 4, [True] * 3 + [False]])[:, None, None]
    return x, mask if padded else None


def slow_linear(rules: str, R: Tensor, x: Tensor, W: Tensor, y: Tensor) -> Tensor:
    """The relevance of x, of one sample, in y = W x + b, all of them flat; term by term."""
    terms = W * x  # [out, in]

    def shared(part: Tensor, total: Tensor) -> Tensor:
        return torch.where(total == 0, 0, part / total.masked_fill(total == 0, 1) * R[:, None]).sum(
            0
        )

    if rules == "epsilon":
        return shared(terms, y[:, None])
    if rules == "paper":
        positive = terms.clamp(min=0)
        return shared(positive, positive.sum(1, keepdim=True))
    plus, minus = (terms * ((W * s > 0) & (x * s > 0)) for s in (1, -1))
    return sum(shared(part, part.sum(1, keepdim=True)) for part in (plus, minus))


def slow_layer(rules: str, R: Tensor, x: Tensor, function) -> Tensor:
    """As :func:`slow_linear`, of a layer that is given as a function, by its matrix."""
    W = torch.func.jacrev(function)(x).reshape(R.numel(), x.numel())
    return slow_linear(rules, R.flatten(), x.flatten(), W, function(x).flatten()).view_as(x)


def slow_add(rules: str, R: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    parts = [x * R / (a + b) for x in (a, b)]
    if rules != "paper":
        return parts[0], parts[1]
    total = sum(abs(x.sum()) for x in parts)
    one, other = (x * abs(x.sum()) / total * R.sum() / x.sum() for x in parts)
    return one, other


def slow_matmul(R: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    S = R / (a @ b) / 2
    return a * (S @ b.mT), b * (a.mT @ S)


def slow_relevance(model: Scored, rules: str, x: Tensor, real: Tensor, target: int):
    """Of x [n, 2 d], and the relevance that the bias channels take; ``real`` [1, n]."""
    module = model.scores
    q, k, v = (f(x).unflatten(1, (heads, d)).transpose(0, 1) for f in (model.q, model.k, model.v))
    s = (q @ k.mT * d**-0.5).masked_fill(~real, 0)
    z, biased = s, s
    if module.bias is not None:
        distance = (torch.arange(n)[:, None] - torch.arange(n)).abs().double()
        b = module.bias(distance).masked_fill(~real, 0)
        z, biased = torch.cat([s, b]), s + b
    first = module.mlp[0](z[None])[0]
    hidden = F.leaky_relu(first, 0.01).masked_fill(~real, 0)
    second = module.mlp[2](hidden[None])[0]
    A = (biased + second).masked_fill(~real, -math.inf).softmax(-1)
    out = (A @ v).transpose(0, 1).flatten(1)
    y = model.head(out)
    R = torch.zeros(3).double()
    R[target] = 1
    R_out = slow_layer(rules, R, out[0], model.head)
    R = torch.zeros_like(out)
    R[0] = R_out
    R = R.unflatten(1, (heads, d)).transpose(0, 1)
    R_A, R_v = slow_matmul(R, A, v)
    R_biased, R_second = slow_add(rules, R_A, biased, second)
    R_hidden = slow_layer(rules, R_second, hidden, lambda x: module.mlp[2](x[None])[0])
    R_z = slow_layer(rules, R_hidden.masked_fill(~real, 0), z, lambda x: module.mlp[0](x[None])[0])
    R_s = (R_biased + R_z[:heads]).masked_fill(~real, 0)
    R_q, R_kt = slow_matmul(R_s, q, k.mT)
    parts = zip((R_q, R_kt.mT, R_v), (model.q, model.k, model.v), strict=True)
    found = sum(
        slow_layer(rules, part.transpose(0, 1).flatten(1), x, function) for part, function in parts
    )
    return found, R_z[heads:].sum(), y[target]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("rules", ["paper", "lrp", "epsilon"])
@pytest.mark.parametrize("kind", KINDS)
def test_relevance_is_that_of_rules_written_out(kind, rules, padded):
    model, (x, mask) = Scored(KINDS[kind], biased=True), x_and_mask(padded)
    trace = relprop.record(model, {"x": x} | ({"mask": mask} if padded else {}))
    target = torch.tensor([1, 2])
    found = trace.source_relevance(target, rules=rules, eps=0.0)
    real = torch.ones(2, 1, n).bool() if mask is None else mask[:, 0]
    with torch.no_grad():
        expected = torch.stack(
            [slow_relevance(model, rules, x[i], real[i], int(target[i]))[0] for i in range(2)]
        )
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9 * expected.abs().max().item())


@pytest.mark.parametrize("kind", KINDS)
def test_epsilon_conserves_but_for_what_the_bias_channels_take(kind):
    """And for that of s + b: it goes to s in full. Conv_2 and Conv_1 have no bias of their own."""
    model, (x, _) = Scored(KINDS[kind], biased=False), x_and_mask(False)
    trace, target = relprop.record(model, x), torch.tensor([1, 2])
    sums = trace.source_relevance(target, rules="epsilon", eps=0.0).sum((1, 2))
    with torch.no_grad():
        slow = [
            slow_relevance(model, "epsilon", x[i], torch.ones(1, n).bool(), int(target[i]))
            for i in range(2)
        ]
    lost = torch.stack([of_bias for _, of_bias, _ in slow])
    assert (lost.abs() > 1e-6).all() == (kind != "no bias")
    torch.testing.assert_close(sums + lost, torch.ones(2).double(), rtol=1e-8, atol=1e-9)


# -------------------------------------------------------------------------- corrected gradients


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("method", ["gradient", "attnlrp", "cp_lrp"])
@pytest.mark.parametrize("kind", KINDS)
def test_corrected_gradients_are_autograds_of_what_is_held_constant(kind, method, padded):
    model, (x, mask) = Scored(KINDS[kind], biased=True), x_and_mask(padded)
    half = Half.apply if method == "attnlrp" else lambda x: x
    leaf = x.clone().requires_grad_()
    q, k, v = (
        f(leaf).unflatten(2, (heads, d)).transpose(1, 2) for f in (model.q, model.k, model.v)
    )
    scores = model.scores(half(q @ k.mT) * d**-0.5, mask)
    scores = scores if mask is None else scores + additive(mask)
    A = scores.softmax(-1)
    A = A.detach() if method == "cp_lrp" else A
    y = model.head(half(A @ v).transpose(1, 2).flatten(2)[:, 0])
    (g,) = torch.autograd.grad(y[:, 1].sum(), leaf)
    inputs = {"x": x} | ({"mask": mask} if padded else {})
    rules = {} if method != "gradient" else {"rules": relprop.rules.GRADIENT}
    name = "attnlrp" if method == "gradient" else method
    found = relprop.explain(model, inputs, 1, name, **rules).relevance
    expected = (x * g).sum(-1).detach()
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


def test_a_walk_without_corrections_is_input_times_gradient_in_a_whole_model():
    for options in KINDS.values():
        model, inputs = model_and_inputs(options, True)
        E = model.embed(inputs["x"]).detach().requires_grad_()
        model.embed, embed = nn.Identity(), model.embed
        y = model(E, inputs["mask"])[torch.arange(B), TARGET].sum()
        (g,) = torch.autograd.grad(y, E)
        model.embed = embed
        options = {"rules": relprop.rules.GRADIENT, "level": "input"}
        found = relprop.explain(model, inputs, TARGET, "attnlrp", **options).relevance
        torch.testing.assert_close(found, (E * g).sum(-1).detach(), rtol=1e-9, atol=1e-13)
