"""Attribution Guided Factorization: relevance with a residual that the gradient guides.

"Visualization of Supervised and Self-Supervised Neural Networks via Attribution Guided
Factorization" (Gur, Ali, Wolf; AAAI 2021; arXiv 2012.02166) is of convolutional networks. Relevance
of a convolution is C, which knows no class, and a residual that does; :func:`agf` is the published
form, its steps a function each. On transformers its factorization does not carry the class: there
the residual is one that is made of the gradient alone, where queries, keys and values are made
(:func:`attention_input`), and the rules of products and sums are those of magnitudes.

Both begin with p_t, a probability of the class (:func:`probability`), instead of its logit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from relprop.rules.guided import At, Guided, wants_gradient
from relprop.rules.linear import (
    Rule,
    carries,
    divide,
    map_of,
    where_relevance_arrives,
    z_box,
)
from relprop.rules.relevance import PAPER, add_epsilon, epsilon_of

SLOPE = 10.0  # of the sigmoid that stands for a step
LAMBDA = 1.0  # of the regularised least squares


def probability(logits: Tensor, target: Tensor) -> Tensor:
    """p_t = softmax_c(y_t exp(-((y_c - y_t) / sigma)^2 / 2)), sigma = max_c |y_c - y_t|: [B].

    ``logits`` [B, C], ``target`` [B].
    """
    chosen = target[:, None]
    y_t = logits.gather(1, chosen)
    distance = logits - y_t
    sigma = distance.abs().amax(dim=1, keepdim=True)
    distance = distance / sigma.masked_fill(sigma == 0, torch.inf)
    scores = y_t * torch.exp(-distance.square() / 2)
    return scores.softmax(dim=1).gather(1, chosen).squeeze(1)


# -------------------------------------------------------------- the steps of a linear map y = W x


def attributed(R: Tensor, x: Tensor, weight: Tensor, *args, eps: float, **kwargs) -> Tensor:
    """Step 1, which knows no class: C = |x| * (|W|^T s(R, |W| |x|)). sum C = sum R.

    ``args``, ``kwargs``: stride, padding, dilation and groups of a convolution. Step 2, A, is that
    of x = 1.
    """
    layer, transposed = map_of(x, weight, *args, **kwargs)
    magnitude, weight = x.abs(), weight.abs()
    return transposed(divide(R, layer(magnitude, weight), eps), weight) * magnitude


@carries("relevance")
def attribution(relevance, output, input, weight, bias=None, *args, eps, **kwargs) -> Tensor:
    """Step 1 alone."""
    return attributed(relevance, input, weight, *args, eps=eps, **kwargs)


linear_attribution = where_relevance_arrives(attribution)


def evidence(x: Tensor, gradient: Tensor) -> Tensor:
    """Step 3, not scaled yet: M = mean_i(x_i g_i)^+ of each position; [B, I, ...] to [B, 1, ...]"""
    return (x * gradient).mean(dim=1, keepdim=True).relu()


def to_largest(x: Tensor, eps: float) -> Tensor:
    """s(x, max x) of each sample; ``x`` [B, ...]."""
    return divide(x, x.flatten(1).amax(dim=1).view(-1, *[1] * (x.ndim - 1)), eps)


def factorization(V: Tensor, phi: Tensor, eps: float) -> Tensor:
    """Step 4: how much more a position is like those of phi > 0 than like those of phi < 0.

    K = sigmoid(10 s(V, max V)); r = [r-, r+] the means of K over the positions of each part;
    w = ((r^T r + I)^-1 r^T K^T)^+; returns w+ - w-.

    ``V`` [B, I, P], ``phi`` [B, 1, P]; returns [B, 1, P].
    """
    K = torch.sigmoid(SLOPE * to_largest(V, eps))

    def representative(part: Tensor) -> Tensor:
        members = part.to(K)
        return divide((K * members).sum(dim=2), members.sum(dim=2), eps)

    r = torch.stack([representative(phi < 0), representative(phi > 0)], dim=2)
    regular = LAMBDA * torch.eye(2, dtype=r.dtype, device=r.device)
    # As torch.linalg.solve, but a GPU does not wait to see whether there is a solution: there is.
    w = torch.linalg.solve_ex(r.mT @ r + regular, r.mT @ K)[0].relu()
    return w[:, 1:] - w[:, :1]


def delta_shift(C: Tensor, residual: Tensor, eps: float, batch: int | None = None) -> Tensor:
    """Step 6: C + residual - [C != 0] sum residual / count[C != 0], so that the sum is that of C.

    Sums are over a sample; ``residual`` is 0 where C is. ``batch``: of windows of samples, of which
    the first dimension is.
    """
    is_there = (C != 0).to(C)
    mean = divide(_total(residual, batch), _total(is_there, batch), eps)
    return C + residual - is_there * mean


def _total(x: Tensor, batch: int | None) -> Tensor:
    """The sum of each sample, for each entry of the first dimension, [*, 1, ...]."""
    batch = len(x) if batch is None else batch
    total = x.reshape(batch, -1).sum(dim=1, keepdim=True).expand(-1, len(x) // batch)
    return total.reshape(-1, *[1] * (x.ndim - 1))


@wants_gradient
def fully_connected(
    relevance, output, input, weight, bias=None, *args, eps, at: At | None = None, **kwargs
) -> Tensor:
    """Step 1; and the delta shift of M alone, of the layer on a flattened feature map."""
    C = attributed(relevance, input, weight, *args, eps=eps, **kwargs)
    if at is None or at.map is None:
        return C
    _, transposed = map_of(input, weight, *args, **kwargs)
    x, g = (t.reshape(at.map) for t in (input, transposed(at.gradient, weight)))
    M = evidence(x, g).expand(at.map).reshape(C.shape) * (C != 0)
    return delta_shift(C, to_largest(M, eps), eps)


def factorized(
    no_a: bool, no_fx: bool, no_fdx: bool, no_m: bool, no_reg: bool, gradcam: bool
) -> Rule:
    """The rule of a convolution, steps 1 to 6; the options are those of :func:`agf`."""

    @wants_gradient
    def rule(
        relevance, output, input, weight, bias=None, *args, eps, at: At | None = None, **kwargs
    ) -> Tensor | tuple[Tensor, ...]:
        if at is None or at.map is not None:
            own = (input, weight, bias, *args)
            return fully_connected(relevance, output, *own, eps=eps, at=at, **kwargs)
        C = attributed(relevance, input, weight, *args, eps=eps, **kwargs)
        _, transposed = map_of(input, weight, *args, **kwargs)
        g = transposed(at.gradient, weight).flatten(2)
        g_masked = transposed(at.gradient * (relevance != 0), weight).flatten(2)
        x, phi = input.flatten(2), C.flatten(2).mean(dim=1, keepdim=True)
        of_class = torch.zeros_like(phi)
        if gradcam:
            of_class = evidence(x, g_masked.mean(dim=2, keepdim=True))
        if not (gradcam or no_fx):
            of_class = of_class + factorization(x, phi, eps).relu()
        if not (gradcam or no_m):
            of_class = of_class + to_largest(evidence(x, g), eps)
        of_class = of_class if no_reg else of_class * torch.sigmoid(C.flatten(2))
        if not no_fdx:
            of_class = of_class + factorization(g_masked, phi, eps).relu()
        residual = of_class.expand_as(x).view_as(C)
        if not no_a:
            ones = torch.ones_like(input)
            residual = residual + attributed(relevance, ones, weight, *args, eps=eps, **kwargs)
        return delta_shift(C, residual * (C != 0), eps)

    return rule


# ------------------------------------------------------------------------------ of transformers


@wants_gradient
def attention_input(
    relevance, output, input, weight, bias=None, *args, eps, at: At | None = None, **kwargs
) -> Tensor | tuple[Tensor, ...]:
    """Step 1; and where queries, keys and values are made, once, the delta shift of E.

    E = [C != 0] (sum_i x_i g_i)^+, scaled so that sum E = sum |C|; C and g are sums over the maps
    that make queries, keys and values of the input. ``input`` [B, ..., D], [B, D, ...] of a
    convolution.
    """
    if at is None or at.joined is None:
        step_1 = linear_attribution if weight.ndim == 2 else attribution
        return step_1(relevance, output, input, weight, bias, *args, eps=eps, **kwargs)
    found = attributed(relevance, input, weight, *args, eps=eps, **kwargs)
    _, transposed = map_of(input, weight, *args, **kwargs)
    joint = at.joined.with_part(found, transposed(at.gradient, weight))
    if joint is None:
        return found
    C, g = joint
    E = (input * g).sum(dim=-1 if weight.ndim == 2 else 1, keepdim=True).relu() * (C != 0)
    batch = at.joined.batch
    E = E * divide(_total(C.abs(), batch), _total(E, batch), eps)
    return found + delta_shift(C, E, eps, batch) - C


@carries("relevance")
def add_magnitudes(
    relevance: Tensor, output: Tensor, input, other, *, alpha: float = 1, eps: float
) -> tuple[Tensor, Tensor]:
    """Sum of two streams: R_a = |a| s(R, |a| + |b|), R_b = |b| s(R, |a| + |b|)."""
    a, b = input.abs(), other.abs() * abs(alpha)
    S = divide(relevance, a + b, eps)
    return a * S, b * S


@carries("relevance")
def matmul_magnitudes(
    relevance: Tensor, output: Tensor, input: Tensor, other: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    """Product: S = s(R, |A| |B|) / 2, R_A = |A| * (S |B|^T), R_B = |B| * (|A|^T S)."""
    A, B = input.abs(), other.abs()
    S = divide(relevance, A @ B, eps) / 2
    return A * (S @ B.mT), B * (A.mT @ S)


def of_magnitudes(function: Callable[..., Tensor]) -> Rule:
    """:func:`relprop.rules.epsilon_of` a function of the magnitudes of its tensors."""
    of_values = epsilon_of(function)

    @carries("relevance")
    def rule(relevance: Tensor, output: Tensor, *args, eps: float, **kwargs):
        args = tuple(a.abs() if torch.is_tensor(a) else a for a in args)
        return of_values(relevance, function(*args, **kwargs), *args, eps=eps, **kwargs)

    return rule


# ----------------------------------------------------------------------------------- rule sets


@carries("relevance")
def unchanged(relevance: Tensor, output: Tensor, *args, eps: float, **kwargs) -> Tensor:
    """Relevance passes as it is."""
    return relevance


_OF_CONVOLUTIONAL: dict[str, Rule] = PAPER | {
    "conv": attribution,
    "linear": linear_attribution,
    "patch_embedding": z_box,
    "add": add_epsilon,
    "batch_norm": unchanged,
}
_OF_TRANSFORMERS: dict[str, Rule] = _OF_CONVOLUTIONAL | {
    "add": add_magnitudes,
    "matmul": matmul_magnitudes,
    "einsum": of_magnitudes(torch.einsum),
    "mul": of_magnitudes(torch.mul),
    "mean": of_magnitudes(torch.mean),
    "sum": of_magnitudes(torch.sum),
}


def _by_kind(convolutional: dict[str, Rule], transformers: dict[str, Rule]) -> Guided:
    def rules(operation: str, block: int, depth: int) -> Rule | None:
        return (transformers if depth else convolutional).get(operation)

    return Guided(rules)


def agf(
    no_a: bool = False,
    no_fx: bool = False,
    no_fdx: bool = False,
    no_m: bool = False,
    no_reg: bool = False,
    gradcam: bool = False,
) -> Guided:
    """Attribution Guided Factorization (Gur, Ali, Wolf; AAAI 2021), and its published ablations.

    Step 5 is residual = A + F(g')^+ + (F(x)^+ + M) / (1 + exp(-C)), where C is not 0.

    ``no_a``, ``no_fx``, ``no_fdx``, ``no_m``: without A, F(x), F(g'), M. ``no_reg``: not divided by
    1 + exp(-C). ``gradcam``: (mean_i x_i mean_n g'_i)^+ stands for F(x)^+ + M. They are of
    convolutions: on transformers, whose rules are others, they change nothing.
    """
    conv = factorized(no_a, no_fx, no_fdx, no_m, no_reg, gradcam)
    own: dict[str, Any] = {"conv": conv, "linear": fully_connected}
    of_attention = {"conv": attention_input, "linear": attention_input}
    return _by_kind(_OF_CONVOLUTIONAL | own, _OF_TRANSFORMERS | of_attention)


AGF = agf()
AGF_WITHOUT_GRADIENT = _by_kind(_OF_CONVOLUTIONAL, _OF_TRANSFORMERS)
"""C alone: neither factorization nor gradient, but for where relevance begins."""
