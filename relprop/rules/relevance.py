"""Relevance rules: how the relevance of an operation's output becomes that of its inputs.

Each rule is the equation of "Transformer Interpretability Beyond Attention Visualization"
(Chefer, Gur, Wolf; CVPR 2021; arXiv 2012.09838), section 3.1 and 3.2, for one operation. A rule
takes the relevance that arrives, the operation's output and the operation's own arguments, under
torch's names, and returns the relevance of its tensor arguments, in their order. Where it returns
fewer, the rest (a weight, a bias) gets none. All relevances are per sample: the first dimension is
the batch, and nothing is ever summed over it.

Those of linear maps are in :mod:`relprop.rules.linear`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from relprop.errors import UnsupportedModel
from relprop.rules.linear import (
    Rule,
    carries,
    divide,
    epsilon,
    linear_epsilon,
    linear_signwise,
    linear_z_plus,
    of_channels,
    signwise,
    z_box,
    z_plus,
)

# ------------------------------------------------------------------------ sums and products


@carries("relevance")
def batch_norm(
    relevance: Tensor, output: Tensor, input: Tensor, scale: Tensor, *, eps: float
) -> Tensor:
    """y = a x + b of each channel, by the epsilon rule: R_x = a x s(R, y).

    z+ would have the wrong sign where ``scale``, a [C], is negative. ``input`` [B, C, ...].
    """
    return divide(relevance, output, eps) * input * of_channels(scale, input)


def per_sample(rule: Rule) -> Rule:
    """Mark a rule that sums over each sample, so that the batch has to come first."""
    rule.per_sample = True  # type: ignore[attr-defined]
    return rule


@carries("relevance")
def add_epsilon(
    relevance: Tensor, output: Tensor, input, other, *, alpha: float = 1, eps: float
) -> tuple[Tensor, Tensor]:
    """The published LRP baseline for a sum of two streams: R_a = a s(R, a+b), R_b = b s(R, a+b)."""
    S = divide(relevance, output, eps)
    R_a = input * S
    of_other = S * other if torch.is_grad_enabled() else S.mul_(other)  # R_a's graph keeps S
    return R_a, of_other.mul_(alpha)


@per_sample
@carries("relevance")
def add_conserving(
    relevance: Tensor, output: Tensor, input, other, *, alpha: float = 1, eps: float
) -> tuple[Tensor, Tensor]:
    """Sum of two streams (residual, embeddings), conserving relevance (paper eq. 8-10).

    R_a = a s(R, a+b) and R_b = b s(R, a+b) may be huge and of opposite sign where a + b is small.
    Each is scaled so that the two hold the shares |sum R_a| : |sum R_b| of sum R, sums running over
    one sample.
    """

    def total(x: Tensor) -> Tensor:
        return x.reshape(len(x), -1).sum(dim=1).reshape(-1, *[1] * (x.ndim - 1))

    R_a, R_b = add_epsilon(relevance, output, input, other, alpha=alpha, eps=eps)
    sum_a, sum_b = total(R_a), total(R_b)
    share = divide(total(relevance), sum_a.abs() + sum_b.abs(), eps)
    return (
        R_a.mul_(divide(sum_a.abs() * share, sum_a, eps)),
        R_b.mul_(divide(sum_b.abs() * share, sum_b, eps)),
    )


@carries("relevance")
def matmul_uniform(
    relevance: Tensor, output: Tensor, input: Tensor, other: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    """Product of two streams (paper eq. 6-7), A V and Q K^T: each operand gets half.

    R_A = A * (S B^T) / 2,  R_B = B * (A^T S) / 2,  S = s(R, AB).
    Shapes: ``input`` [..., n, k]; ``other`` [..., k, m]; ``relevance``, ``output`` [..., n, m].
    """
    S = divide(relevance, output, eps).div_(2)
    return (S @ other.mT).mul_(input), (input.mT @ S).mul_(other)


def epsilon_of(function: Callable[..., Tensor]) -> Rule:
    """The rule of any function that is linear in each of its tensors: means, sums, products.

    R_x = x * (dy/dx)^T s(R, y), divided by the number of tensors so that relevance is conserved
    (what a constant one takes is lost).
    """

    @carries("relevance")
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


@carries("relevance")
def whole(
    relevance: Tensor, output: Tensor, input: Tensor, function: Callable, *, eps: float
) -> Tensor:
    """The rule of a product with a constant, ``function`` of ``input``: it gets all relevance."""
    return epsilon_of(function)(relevance, output, input, eps=eps)[0]


def statistic(relevance: Tensor, output: Tensor, *args, eps: float, **kwargs) -> tuple:
    """The rule of a variance, standard deviation or norm: relevance may not arrive there.

    It does not where the statistic normalises the numbers that it is of.

    Raises:
        UnsupportedModel: always.
    """
    raise UnsupportedModel(
        f"a variance, standard deviation or norm {list(output.shape)} is used as a feature: no "
        "rule takes relevance through it; accepted: one that normalises the numbers that it is "
        'of, x / norm(x); or gradient times input, method="attnlrp" with '
        "rules=relprop.rules.GRADIENT"
    )


PAPER: dict[str, Rule] = {
    "linear": linear_z_plus,
    "conv": z_plus,
    "patch_embedding": z_box,
    "batch_norm": batch_norm,
    "add": add_conserving,
    "matmul": matmul_uniform,
    "einsum": epsilon_of(torch.einsum),
    "mul": epsilon_of(torch.mul),
    "mean": epsilon_of(torch.mean),
    "sum": epsilon_of(torch.sum),
}
"""The paper's rules, by operation."""

LRP: dict[str, Rule] = PAPER | {
    "linear": linear_signwise,
    "conv": signwise,
    "add": add_epsilon,
}
"""The rules of the published LRP baseline."""

EPSILON: dict[str, Rule] = PAPER | {
    "linear": linear_epsilon,
    "conv": epsilon,
    "patch_embedding": epsilon,
    "add": add_epsilon,
}
"""The epsilon rule throughout (Bach et al. 2015): of a model without biases it conserves."""
