"""Corrections of the gradient: walks that carry g = R / x, so that R = x * g wherever it is read.

Each correction is one row of "AttnLRP" (Achtibat et al., ICML 2024, section 3) or of "XAI for
transformers: better explanations through conservative propagation" (Ali et al., ICML 2022, CP-LRP).
An operation without one takes autograd's own gradient, which for whatever is linear in its input is
the epsilon rule with epsilon 0. So the product of a corrected gradient with the input, or with an
attention map, is its relevance.

A correction takes the gradient that arrives, the operation's output and its arguments, and returns
the gradients of its tensors, in their order; or :class:`Own`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from relprop.errors import UnsupportedModel, check_number
from relprop.rules.linear import Rule, carries, map_of, of_channels
from relprop.rules.relevance import statistic


@dataclass(frozen=True)
class Own:
    """What a correction returns for autograd's own gradient of the operation, of ``gradient``."""

    gradient: Tensor | None


@dataclass(frozen=True)
class Corrections:
    """A rule set of the gradient: corrections by operation, or a function of the place.

    ``rules``: a mapping, or a function (operation, block, depth) -> correction or None. An
    operation without a correction takes autograd's own gradient. Rules of relevance are of another
    kind, and are refused.

    The gamma rule below the middle of a model, and the epsilon rule above it:

    >>> import relprop, torch
    >>> below, above = relprop.rules.attnlrp(gamma=0.25), relprop.rules.attnlrp()
    >>> def composite(operation, block, depth):
    ...     return (below if block < depth / 2 else above).rules.get(operation)
    >>> model, numbers = torch.nn.Linear(4, 2), torch.randn(3, 4)
    >>> rules = relprop.rules.Corrections(composite)
    >>> relprop.explain(model, numbers, 0, "attnlrp", rules=rules).relevance.shape
    torch.Size([3, 4])
    """

    rules: Mapping[str, Rule] | Callable[[str, int, int], Rule | None]


def of_gradient_alone(correction: Callable[[Tensor], Own]) -> Rule:
    """Mark a correction that looks at nothing but the gradient that arrives."""
    correction.alone = True  # type: ignore[attr-defined]
    return carries("gradient")(correction)  # type: ignore[arg-type]


@of_gradient_alone
def halved(gradient: Tensor) -> Own:
    """Product of two streams (AttnLRP, eq. 14): each operand gets half of the relevance."""
    return Own(gradient * 0.5)


@of_gradient_alone
def blocked(gradient: Tensor) -> Own:
    """The operation is a constant."""
    return Own(None)


def refused(what: str) -> Rule:
    """The correction of what a method has none for: it raises UnsupportedModel."""

    def rule(gradient: Tensor) -> Own:
        raise UnsupportedModel(
            f"{what}: the method has no rule for it; accepted: attention by F.softmax, or by "
            "exp(scores) / exp(scores).sum(-1, keepdim=True); or another rule set, such as epsilon"
        )

    return of_gradient_alone(rule)


@carries("gradient")
def activation(gradient: Tensor, output: Tensor, input: Tensor, *args, eps: float, **kwargs):
    """Relevance passes unchanged (AttnLRP, eq. 9): g_x = g y / x, 0 where x is 0."""
    slope = output / input.masked_fill(input == 0, torch.inf)
    return (gradient * slope,)


@carries("gradient")
def gate(gradient: Tensor, output: Tensor, value: Tensor, gate: Tensor, *, eps: float):
    """Product of a stream and what came out of an activation, which is a constant (CP-LRP)."""
    return ((gradient * gate).sum_to_size(value.shape),)


@carries("gradient")
def layer_norm(gradient: Tensor, output, input: Tensor, weight, dimensions: int, own_eps, *, eps):
    """The standard deviation is a constant (AttnLRP, eq. 16): h = g w / std, g_x = h - mean(h)."""
    over = tuple(range(-dimensions, 0))
    centred = input - input.mean(over, keepdim=True)
    variance = centred.square().mean(over, keepdim=True)  # torch.var takes several times as long
    h = gradient * torch.rsqrt(variance + own_eps)
    h = h if weight is None else h * weight
    return (h - h.mean(over, keepdim=True),)


@carries("gradient")
def rms_norm(gradient: Tensor, output, input: Tensor, weight, dimensions: int, own_eps, *, eps):
    """The root mean square is a constant: g_x = g w / rms."""
    over = tuple(range(-dimensions, 0))
    own_eps = torch.finfo(input.dtype).eps if own_eps is None else own_eps
    h = gradient * torch.rsqrt(input.square().mean(over, keepdim=True) + own_eps)
    return (h if weight is None else h * weight,)


@carries("gradient")
def group_norm(gradient: Tensor, output, input: Tensor, weight, groups: int, own_eps, *, eps):
    """As :func:`layer_norm` of each group of channels; ``input`` [B, C, ...]."""
    if weight is not None:
        gradient = gradient * weight.view(-1, *[1] * (input.ndim - 2))
    grouped = gradient.unflatten(1, (groups, -1)).flatten(2)
    found = layer_norm(
        grouped, None, input.unflatten(1, (groups, -1)).flatten(2), None, 1, own_eps, eps=eps
    )
    return (found[0].view_as(input),)


@carries("gradient")
def normalize(gradient: Tensor, output, input: Tensor, p: float, dim: int, own_eps, *, eps):
    """x / norm(x): the norm is a constant."""
    return (gradient / input.norm(p, dim, keepdim=True).clamp_min(own_eps),)


@carries("gradient")
def standardised(gradient: Tensor, output, input: Tensor, statistic, divides: bool, *, eps):
    """A norm written out by hand, x * s or x / s: the statistic s of x is a constant."""
    return (gradient / statistic if divides else gradient * statistic,)


# --------------------------------------------------------------------------------- gamma rule


def gamma_rule(gamma: float) -> Rule:
    """The gamma rule of linear maps (Montavon et al. 2019), which favours what is positive.

    With z the output, W_p = W + gamma W^+ and W_n = W + gamma W^-, biases likewise: where z > 0,
    S = R / (x^+ W_p^T + x^- W_n^T + b_p); where z < 0, S' = R / (x^+ W_n^T + x^- W_p^T + b_n);
    R_x = x^+ * (S W_p + S' W_n) + x^- * (S W_n + S' W_p).
    """

    check_number("gamma", gamma)

    @carries("gradient")
    def rule(gradient, output, input, weight, bias=None, *args, eps, **kwargs):
        layer, transposed = map_of(input, weight, *args, **kwargs)

        def stabilised(z: Tensor) -> Tensor:
            return z + torch.copysign(z.new_tensor(eps), z)

        def part(sign: int) -> tuple[Tensor, Tensor]:
            """S and S' of the equations, by the sign of the output."""
            w_own, w_other = (W_p, W_n) if sign > 0 else (W_n, W_p)
            z = layer(plus, w_own) + layer(minus, w_other)
            if bias is not None:
                b = bias + gamma * (bias.clamp(min=0) if sign > 0 else bias.clamp(max=0))
                z = z + of_channels(b, weight)
            S = torch.where(output * sign > 0, R / stabilised(z), 0)
            return transposed(S, w_own), transposed(S, w_other)

        R = gradient * output
        W_p, W_n = weight + gamma * weight.clamp(min=0), weight + gamma * weight.clamp(max=0)
        plus, minus = input.clamp(min=0), input.clamp(max=0)
        (own_p, other_p), (own_n, other_n) = part(1), part(-1)
        # R_x / x, which has no 0 to divide by: x^+ / x and x^- / x are 0 or 1.
        return (torch.where(input >= 0, own_p + own_n, other_p + other_n),)

    return rule


# ----------------------------------------------------------------------------------- rule sets


def _norms() -> dict[str, Rule]:
    of_norms = {"layer_norm": layer_norm, "rms_norm": rms_norm, "group_norm": group_norm}
    return of_norms | {
        "normalize": normalize,
        "standardised": standardised,
        "activation": activation,
        "statistic": statistic,
    }


def _weights(gamma: float, patch_gamma: float) -> dict[str, Rule]:
    check_number("gamma", gamma)
    check_number("patch_gamma", patch_gamma)
    rules: dict[str, Rule] = {}
    if gamma:
        rules |= {"linear": gamma_rule(gamma), "conv": gamma_rule(gamma)}
    if patch_gamma:
        rules["patch_embedding"] = gamma_rule(patch_gamma)
    return rules


def attnlrp(gamma: float = 0.0, patch_gamma: float = 0.0) -> Corrections:
    """AttnLRP (Achtibat et al., ICML 2024).

    ``gamma``: of the gamma rule of linear layers and convolutions, ``patch_gamma``: of the patch
    embedding; 0 is the epsilon rule.
    """
    products = dict.fromkeys(("matmul", "einsum", "mul", "gate"), halved)
    products["exponential_weighing"] = refused("an exponential of scores times values")
    return Corrections(_norms() | products | _weights(gamma, patch_gamma))


def cp_lrp(gamma: float = 0.0, patch_gamma: float = 0.0) -> Corrections:
    """CP-LRP (Ali et al., ICML 2022): attention maps and gates are constants.

    ``gamma``, ``patch_gamma`` as in :func:`attnlrp`.
    """
    constants = {"softmax": blocked, "weighing": blocked, "gate": gate, "mul": halved}
    constants["linear_weighing"] = refused("linear attention, scores times values")
    return Corrections(_norms() | constants | _weights(gamma, patch_gamma))


ATTNLRP, CP_LRP = attnlrp(), cp_lrp()
GRADIENT = Corrections({})
"""No corrections: gradient times input."""
