"""Relevance rules: how the relevance of an operation's output becomes that of its inputs.

Each rule is the equation of "Transformer Interpretability Beyond Attention Visualization"
(Chefer, Gur, Wolf; CVPR 2021; arXiv 2012.09838), section 3.1 and 3.2, for one operation. A rule
takes the relevance that arrives, the operation's output and the operation's own arguments, under
torch's names, and returns the relevance of its tensor arguments, in their order. Where it returns
fewer, the rest (a weight, a bias) gets none. All relevances are per sample: the first dimension is
the batch, and nothing is ever summed over it.

The gradient of every operation is autograd's own (see :mod:`relprop.backward`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Rule = Callable[..., "Tensor | tuple[Tensor, ...]"]


def divide(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """Stabilised quotient s(a, b) = a / (b + eps * sign(b)), and 0 where b is 0 (``a`` finite).

    ``eps`` 0 is exact division.
    """
    stabilised = torch.copysign(b.new_full((), eps), b).add_(b)
    return a / stabilised.masked_fill_(b == 0, torch.inf)


def _rounding(magnitude: Tensor) -> Tensor:
    """What is left of a sum of terms of this ``magnitude`` that cancel; overwrites it."""
    return magnitude.mul_(16 * torch.finfo(magnitude.dtype).eps)


# ------------------------------------------------------------------------------- linear maps


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


@where_relevance_arrives
def linear_z_plus(
    relevance: Tensor, output: Tensor, input: Tensor, weight: Tensor, bias=None, *, eps: float
) -> Tensor:
    """z+ rule (paper eq. 4): R_i = sum_j  (x_i w_ji)^+ / sum_k (x_k w_jk)^+  R_j.

    With v^+ = (|v| + v) / 2 the denominators are half of Z = |x| |W|^T + x W^T, and x W^T is the
    output less the bias: one extra product here, two below, none of them over clamped copies.
    R = |x| * (S |W|) + x * (S W), with S = R / (Z + 2 eps). In place, since memory is what takes
    the time besides the products.

    Shapes: ``relevance``, ``output`` [B, ..., out]; ``input`` [B, ..., in]; ``weight`` [out, in].
    """
    return _z_plus(F.linear, lambda S, w: S @ w, relevance, output, input, weight, bias, eps)


def conv_z_plus(
    relevance: Tensor,
    output: Tensor,
    input: Tensor,
    weight: Tensor,
    bias=None,
    *args,
    eps: float,
    **kwargs,
) -> Tensor:
    """:func:`linear_z_plus` of a convolution: ``input`` [B, C, ...]; ``weight`` [D, C, ...]."""
    layer, transposed = _convolution(weight, input, *args, **kwargs)
    return _z_plus(layer, transposed, relevance, output, input, weight, bias, eps)


def _z_plus(
    layer: Callable,
    transposed: Callable,
    relevance: Tensor,
    output: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    abs_input, abs_weight = input.abs(), weight.abs()
    magnitude = layer(abs_input, abs_weight)
    Z = magnitude + output
    if bias is not None:
        bias = bias.view(-1, *[1] * (weight.ndim - 2))
        Z.sub_(bias)
        magnitude.add_(bias.abs())
    # Where every product x_i w_ji is negative Z is 0, up to rounding, and so is S.
    Z.masked_fill_(Z <= _rounding(magnitude), torch.inf)
    S = relevance / Z.add_(2 * eps)
    del magnitude, Z  # as large as the widest layer
    return transposed(S, abs_weight).mul_(abs_input).add_(transposed(S, weight).mul_(input))


def _convolution(weight: Tensor, input: Tensor, *args, **kwargs) -> tuple[Callable, Callable]:
    """A convolution without its bias, (x, w) -> y, and its transpose, (S, w) -> x."""
    convolve = (F.conv1d, F.conv2d, F.conv3d)[weight.ndim - 3]

    def layer(x: Tensor, w: Tensor) -> Tensor:
        return convolve(x, w, None, *args, **kwargs)

    def transposed(S: Tensor, w: Tensor) -> Tensor:
        return torch.func.vjp(lambda x: layer(x, w), torch.zeros_like(input))[1](S)[0]

    return layer, transposed


@where_relevance_arrives
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


@where_relevance_arrives
def linear_signs_apart(
    relevance: Tensor, output: Tensor, input: Tensor, weight: Tensor, bias=None, *, eps: float
) -> Tensor:
    """The published LRP baseline: x+ with W+ and x- with W-, each normalised by itself.

    R = x+ * (S1 W+) + x- * (S2 W-), with S1 = s(R, x+ W+^T) and S2 = s(R, x- W-^T).
    Shapes as in :func:`linear_z_plus`.
    """

    def part(x: Tensor, w: Tensor) -> Tensor:
        return x * (divide(relevance, F.linear(x, w), eps) @ w)

    return part(input.clamp(min=0), weight.clamp(min=0)) + part(
        input.clamp(max=0), weight.clamp(max=0)
    )


def conv_signs_apart(
    relevance: Tensor,
    output: Tensor,
    input: Tensor,
    weight: Tensor,
    bias=None,
    *args,
    eps: float,
    **kwargs,
) -> Tensor:
    """:func:`linear_signs_apart` of a convolution."""
    layer, transposed = _convolution(weight, input, *args, **kwargs)

    def part(x: Tensor, w: Tensor) -> Tensor:
        return x * transposed(divide(relevance, layer(x, w), eps), w)

    return part(input.clamp(min=0), weight.clamp(min=0)) + part(
        input.clamp(max=0), weight.clamp(max=0)
    )


@where_relevance_arrives
def linear_epsilon(
    relevance: Tensor, output: Tensor, input: Tensor, weight: Tensor, bias=None, *, eps: float
) -> Tensor:
    """Epsilon rule (Bach et al. 2015, eq. 58): R_x = x * (s(R, y) W); the bias takes its share."""
    return (divide(relevance, output, eps) @ weight).mul_(input)


def conv_epsilon(
    relevance: Tensor,
    output: Tensor,
    input: Tensor,
    weight: Tensor,
    bias=None,
    *args,
    eps: float,
    **kwargs,
) -> Tensor:
    """:func:`linear_epsilon` of a convolution."""
    _, transposed = _convolution(weight, input, *args, **kwargs)
    return transposed(divide(relevance, output, eps), weight).mul_(input)


def layer_epsilon(
    relevance: Tensor, output: Tensor, input: Tensor, weight: Tensor, *args, eps: float, **kwargs
) -> Tensor:
    """The epsilon rule of a patch embedding, a convolution or a linear layer."""
    if weight.ndim == 2:
        return linear_epsilon(relevance, output, input, weight, *args, eps=eps)  # type: ignore
    return conv_epsilon(relevance, output, input, weight, *args, eps=eps, **kwargs)


def batch_norm(
    relevance: Tensor, output: Tensor, input: Tensor, scale: Tensor, *, eps: float
) -> Tensor:
    """y = a x + b of each channel, by the epsilon rule: R_x = a x s(R, y).

    z+ would have the wrong sign where ``scale``, a [C], is negative. ``input`` [B, C, ...].
    """
    return divide(relevance, output, eps) * input * scale.view(-1, *[1] * (input.ndim - 2))


def conv_z_box(
    relevance: Tensor,
    output: Tensor,
    input: Tensor,
    weight: Tensor,
    bias=None,
    *args,
    eps: float,
    **kwargs,
) -> Tensor:
    """z-box rule for pixels (Montavon et al. 2017, eq. 14), for the patch embedding.

    z = x W - l W+ - h W-  with l and h the lowest and the highest value of the image itself.
    Shapes: ``input`` [B, C, H, W]; ``weight`` [D, C, h, w]; ``relevance`` [B, D, rows, columns].
    """

    layer, _ = _convolution(weight, input, *args, **kwargs)
    return _z_box(layer, relevance, input, weight, eps)


def linear_z_box(
    relevance: Tensor, output: Tensor, input: Tensor, weight: Tensor, bias=None, *, eps: float
) -> Tensor:
    """:func:`conv_z_box` of patches that were cut by reshaping and embedded by a linear layer.

    Shapes: ``input`` [B, ..., in]; ``weight`` [D, in]; ``relevance`` [B, ..., D].
    """
    return _z_box(F.linear, relevance, input, weight, eps)


def _z_box(layer: Callable, relevance: Tensor, input: Tensor, weight: Tensor, eps: float) -> Tensor:
    bounds = input.flatten(1).aminmax(dim=1)
    low, high = (bound.view(-1, *[1] * (input.ndim - 1)) for bound in bounds)
    corners = [x.expand_as(input) for x in (input, low, high)]
    weights = (weight, -weight.clamp(min=0), -weight.clamp(max=0))

    def z(*corners: Tensor) -> Tensor:
        return sum(layer(x, w) for x, w in zip(corners, weights, strict=True))

    Z, transposed, *_ = torch.func.vjp(z, *corners)
    of_channel = weight.abs().flatten(1).sum(dim=1).view(-1, *[1] * (weight.ndim - 2))
    magnitude = torch.maximum(low.abs(), high.abs()) * of_channel
    S = divide(relevance, Z.masked_fill(Z <= _rounding(magnitude), 0), eps)
    return sum(x * c for x, c in zip(corners, transposed(S), strict=True))


def z_box(
    relevance: Tensor, output: Tensor, input: Tensor, weight: Tensor, *args, eps: float, **kwargs
) -> Tensor:
    """The z-box rule of a patch embedding, a convolution or a linear layer."""
    rule = linear_z_box if weight.ndim == 2 else conv_z_box
    return rule(relevance, output, input, weight, *args, eps=eps, **kwargs)


# ------------------------------------------------------------------------ sums and products


def per_sample(rule: Rule) -> Rule:
    """Mark a rule that sums over each sample, so that the batch has to come first."""
    rule.per_sample = True  # type: ignore[attr-defined]
    return rule


def add_proportional(
    relevance: Tensor, output: Tensor, input, other, *, alpha: float = 1, eps: float
) -> tuple[Tensor, Tensor]:
    """The published LRP baseline for a sum of two streams: R_a = a s(R, a+b), R_b = b s(R, a+b)."""
    S = divide(relevance, output, eps)
    R_a = input * S
    return R_a, S.mul_(other).mul_(alpha)


@per_sample
def add_keeping_shares(
    relevance: Tensor, output: Tensor, input, other, *, alpha: float = 1, eps: float
) -> tuple[Tensor, Tensor]:
    """Sum of two streams (residual, embeddings), conserving relevance (paper eq. 8-10).

    R_a = a s(R, a+b) and R_b = b s(R, a+b) may be huge and of opposite sign where a + b is small.
    Each is scaled so that the two hold the shares |sum R_a| : |sum R_b| of sum R, sums running over
    one sample.
    """

    def total(x: Tensor) -> Tensor:
        return x.reshape(len(x), -1).sum(dim=1).reshape(-1, *[1] * (x.ndim - 1))

    R_a, R_b = add_proportional(relevance, output, input, other, alpha=alpha, eps=eps)
    sum_a, sum_b = total(R_a), total(R_b)
    share = divide(total(relevance), sum_a.abs() + sum_b.abs(), eps)
    return (
        R_a.mul_(divide(sum_a.abs() * share, sum_a, eps)),
        R_b.mul_(divide(sum_b.abs() * share, sum_b, eps)),
    )


def matmul_halves(
    relevance: Tensor, output: Tensor, input: Tensor, other: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    """Product of two streams (paper eq. 6-7), A V and Q K^T: each operand gets half.

    R_A = A * (S B^T) / 2,  R_B = B * (A^T S) / 2,  S = s(R, AB).
    Shapes: ``input`` [..., n, k]; ``other`` [..., k, m]; ``relevance``, ``output`` [..., n, m].
    """
    S = divide(relevance, output, eps).div_(2)
    return (S @ other.mT).mul_(input), (input.mT @ S).mul_(other)


def proportional(function: Callable[..., Tensor]) -> Rule:
    """The rule of any function that is linear in each of its tensors: means, sums, products.

    R_x = x * (dy/dx)^T s(R, y), divided by the number of tensors so that relevance is conserved
    (what a constant one takes is lost).
    """

    def rule(relevance: Tensor, output: Tensor, *args, eps: float, **kwargs) -> tuple[Tensor, ...]:
        streams = [a for a in (*args, *kwargs.values()) if torch.is_tensor(a)]

        def of_streams(*streams: Tensor) -> Tensor:
            remaining = iter(streams)

            def value(a):
                return next(remaining) if torch.is_tensor(a) else a

            return function(*map(value, args), **{k: value(a) for k, a in kwargs.items()})

        _, transposed, *_ = torch.func.vjp(of_streams, *streams)
        factors = transposed(divide(relevance, output, eps))
        return tuple(x * f / len(streams) for x, f in zip(streams, factors, strict=True))

    return rule


def whole(
    relevance: Tensor, output: Tensor, input: Tensor, function: Callable, *, eps: float
) -> Tensor:
    """The rule of a product with a constant, ``function`` of ``input``: it gets all relevance."""
    return proportional(function)(relevance, output, input, eps=eps)[0]


def nothing(relevance: Tensor, output: Tensor, *args, eps: float, **kwargs) -> tuple:
    """The rule of what no relevance passes through."""
    return ()


PAPER: dict[str, Rule] = {
    "linear": linear_z_plus,
    "conv": conv_z_plus,
    "patch_embedding": z_box,
    "batch_norm": batch_norm,
    "add": add_keeping_shares,
    "matmul": matmul_halves,
    "einsum": proportional(torch.einsum),
    "mul": proportional(torch.mul),
    "mean": proportional(torch.mean),
    "sum": proportional(torch.sum),
}
"""The paper's rules, by operation."""

LRP: dict[str, Rule] = PAPER | {
    "linear": linear_signs_apart,
    "conv": conv_signs_apart,
    "add": add_proportional,
}
"""The rules of the published LRP baseline."""

EPSILON: dict[str, Rule] = PAPER | {
    "linear": linear_epsilon,
    "conv": conv_epsilon,
    "patch_embedding": layer_epsilon,
    "add": add_proportional,
}
"""The epsilon rule throughout (Bach et al. 2015): of a model without biases it conserves."""
