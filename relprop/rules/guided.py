"""Rules of relevance that want the gradient: what they are given, and sets of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from relprop.rules.linear import Rule, carries


@dataclass(frozen=True)
class Guided:
    """A rule set of relevance that begins with p_t, and of which rules may want its gradient.

    Relevance begins at the input x of the last linear layer, with x * dp_t/dx.

    ``rules``: a mapping, or a function (operation, block, depth) -> rule or None.
    """

    rules: Mapping[str, Rule] | Callable[[str, int, int], Rule | None]


class Joined(Protocol):
    """The linear maps that make queries, keys and values of one input.

    ``batch``: samples of the input, whose first dimension is that of samples, or of their windows.
    """

    batch: int

    def with_part(self, C: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor] | None:
        """Sums of C and of the gradient over all of them; None while some are missing."""


class At(NamedTuple):
    """What a rule that wants the gradient is told of its place.

    ``gradient``: dp_t/dy, in the shape of the output. ``map``: of a fully connected layer on a
    flattened feature map, or of a convolution that covers its input, the map's shape [B, C, ...].
    ``joined``: the maps of the same input that make queries, keys and values with this one.
    """

    gradient: Tensor
    map: torch.Size | None = None
    joined: Joined | None = None


def wants_gradient(rule: Rule) -> Rule:
    """Mark a rule that takes ``at``: an :class:`At`, or None where there is no gradient for it."""
    rule.wants_gradient = True  # type: ignore[attr-defined]
    return carries("relevance")(rule)
