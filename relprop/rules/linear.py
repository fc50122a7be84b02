"""Relevance rules of linear maps: linear layers, convolutions, patch embeddings.

Each is an equation for one map y = W x + b, of tensors: ``input`` [B, ..., in], ``weight``
[out, in], ``bias`` [out] or None, ``output`` and its ``relevance`` [B, ..., out] of a linear layer;
[B, C, ...], [D, C, ...], [D] and [B, D, ...] of a convolution, whose other arguments (stride,
padding, dilation, groups) follow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Rule = Callable[..., Tensor | tuple[Tensor, ...]]


def carries(what: str) -> Callable[[Rule], Rule]:
    """Mark a rule by what it takes and returns, ``"relevance"`` or ``"gradient"``."""

    def mark(rule: Rule) -> Rule:
        rule.carries = what  # type: ignore[attr-defined]
        return rule

    return mark


def divide(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """Stabilised quotient s(a, b) = a / (b + eps * sign(b)), and 0 where b is 0 (``a`` finite).

    ``eps`` 0 is exact division.
    """
    stabilised = torch.copysign(b.new_full((), eps), b.detach()).add_(b)
    return a / stabilised.masked_fill_(b == 0, torch.inf)


def _rounding(magnitude: Tensor) -> Tensor:
    """What is left of a sum of terms of this ``magnitude`` that cancel; overwrites it."""
    return magnitude.mul_(16 * torch.finfo(magnitude.dtype).eps)


def map_of(input: Tensor, weight: Tensor, *args, **kwargs) -> tuple[Callable, Callable]:
    """The linear map without its bias, (x, W) -> W x, and its transpose, (S, W) -> W^T S."""
    if weight.ndim == 2:
        return F.linear, torch.matmul
    convolve = (F.conv1d, F.conv2d, F.conv3d)[weight.ndim - 3]

    def layer(x: Tensor, w: Tensor) -> Tensor:
        return convolve(x, w, None, *args, **kwargs)

    def transposed(S: Tensor, w: Tensor) -> Tensor:
        return torch.func.vjp(lambda x: layer(x, w), torch.zeros_like(input))[1](S)[0]

    return layer, transposed


def of_channels(bias: Tensor, weight: Tensor) -> Tensor:
    """A bias [out] in the shape in which it is added."""
    return bias.view(-1, *[1] * (weight.ndim - 2))


def where_relevance_arrives(rule: Rule) -> Rule:
    """A linear map's ``rule`` for the tokens to which relevance arrives; the others get none.

    Those are few above the last attention map, where a head reads the class token alone, and all
    that is padding is among the others.
    """

    @functools.wraps(rule)
    def of_tokens(relevance, output, input, weight, bias=None, *, eps):
        # One channel tells for all of them, nearly always, and at no cost.
        if _known((relevance[..., 0] == 0).any()):
            arrives = relevance.any(dim=-1)
            if not arrives.all():
                few = (x[arrives] for x in (relevance, output, input))
                of_input = torch.zeros_like(input)
                of_input[arrives] = rule(*few, weight, bias, eps=eps)
                return of_input
        return rule(relevance, output, input, weight, bias, eps=eps)

    return of_tokens


def _known(condition: Tensor) -> bool:
    """The condition's value; False under vmap, where it cannot be read, and on a GPU, where reading
    it would synchronise."""
    if condition.device.type != "cpu":
        return False
    try:
        return bool(condition)
    except RuntimeError:
        return False


@carries("relevance")
def z_plus(relevance, output, input, weight, bias=None, *args, eps: float, **kwargs) -> Tensor:
    """z+ rule (paper eq. 4): R_i = sum_j  (x_i w_ji)^+ / sum_k (x_k w_jk)^+  R_j.

    With v^+ = (|v| + v) / 2 the denominators are half of Z = |W| |x| + W x, and W x is the output
    less the bias: one extra product here, two below, none of them over clamped copies.
    R = |x| * (|W|^T S) + x * (W^T S), with S = R / (Z + 2 eps). In place, since memory is what
    takes the time besides the products.
    """
    layer, transposed = map_of(input, weight, *args, **kwargs)
    abs_input, abs_weight = input.abs(), weight.abs()
    magnitude = layer(abs_input, abs_weight)
    Z = magnitude + output
    if bias is not None:
        bias = of_channels(bias, weight)
        Z.sub_(bias)
        magnitude.add_(bias.abs())
    # Where every product x_i w_ji is negative Z is 0, up to rounding, and so is S.
    Z.masked_fill_(Z <= _rounding(magnitude), torch.inf)
    S = relevance / Z.add_(2 * eps)
    del magnitude, Z  # as large as the widest layer
    return transposed(S, abs_weight).mul_(abs_input).add_(transposed(S, weight).mul_(input))


@where_relevance_arrives
@carries("relevance")
def linear_z_plus_bf16(
    relevance: Tensor, output: Tensor, input: Tensor, weight: Tensor, bias=None, *, eps: float
) -> Tensor:
    """:func:`linear_z_plus` with products in bfloat16, summed in float32 and then rounded.

    Over the clamped products themselves, x+ W+ and x- W-: all terms have one sign, so that nothing
    cancels and 8 bits are enough.
    """
    x, W = input.bfloat16(), weight.bfloat16()
    W_plus, W_minus = W.clamp(min=0), W.clamp(max=0)
    Z = F.linear(x.clamp(min=0), W_plus).to(relevance) + F.linear(x.clamp(max=0), W_minus)
    S = divide(relevance, Z, eps).bfloat16()
    return input * torch.where(x > 0, S @ W_plus, S @ W_minus).to(input)


@carries("relevance")
def signwise(relevance, output, input, weight, bias=None, *args, eps: float, **kwargs) -> Tensor:
    """The published LRP baseline: x+ with W+ and x- with W-, each normalised by itself.

    R = x+ * (W+^T S1) + x- * (W-^T S2), with S1 = s(R, W+ x+) and S2 = s(R, W- x-).
    """
    layer, transposed = map_of(input, weight, *args, **kwargs)

    def part(x: Tensor, w: Tensor) -> Tensor:
        return x * transposed(divide(relevance, layer(x, w), eps), w)

    return part(input.clamp(min=0), weight.clamp(min=0)) + part(
        input.clamp(max=0), weight.clamp(max=0)
    )


@carries("relevance")
def epsilon(relevance, output, input, weight, bias=None, *args, eps: float, **kwargs) -> Tensor:
    """Epsilon rule (Bach et al. 2015, eq. 58): R_x = x * (W^T s(R, y)).

    The bias takes its share.
    """
    _, transposed = map_of(input, weight, *args, **kwargs)
    return transposed(divide(relevance, output, eps), weight).mul_(input)


@carries("relevance")
def z_box(relevance, output, input, weight, bias=None, *args, eps: float, **kwargs) -> Tensor:
    """z-box rule for pixels (Montavon et al. 2017, eq. 14), for the patch embedding.

    z = W x - W+ l - W- h  with l and h the lowest and the highest value of the image itself.
    """
    layer, _ = map_of(input, weight, *args, **kwargs)
    bounds = input.flatten(1).aminmax(dim=1)
    low, high = (bound.view(-1, *[1] * (input.ndim - 1)) for bound in bounds)
    corners = [x.expand_as(input) for x in (input, low, high)]
    weights = (weight, -weight.clamp(min=0), -weight.clamp(max=0))

    def z(*corners: Tensor) -> Tensor:
        return sum(layer(x, w) for x, w in zip(corners, weights, strict=True))

    Z, transposed, *_ = torch.func.vjp(z, *corners)
    magnitude = torch.maximum(low.abs(), high.abs())
    magnitude = magnitude * of_channels(weight.abs().flatten(1).sum(dim=1), weight)
    S = divide(relevance, Z.masked_fill(Z <= _rounding(magnitude), 0), eps)
    return sum(x * c for x, c in zip(corners, transposed(S), strict=True))


# Of linear layers, whose rows are tokens; those that nothing arrives at cost nothing.
linear_z_plus = where_relevance_arrives(z_plus)
linear_signwise = where_relevance_arrives(signwise)
linear_epsilon = where_relevance_arrives(epsilon)
