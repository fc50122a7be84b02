"""How the weight of tokens gets from the head down to the sources, map by map.

Methods that multiply attention maps are one walk of weights (:mod:`relprop.rules.weights`): they
say what C_b is made of. It goes from cut to cut, a cut being a sum that all passes. So the gradient
and the relevance of one segment at a time are there, and what has been passed is freed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from relprop.recording.graph import Corrected, Relevance
from relprop.recording.record import AttentionMap, Recording
from relprop.recording.tags import tag
from relprop.rules.weights import Weights, to_output
from relprop.walks.backward import Backward, Top

# From A, G and R of a map, [B, H, ..., n, m], what C_b [B, ..., n, m] is; None if not asked for.
Combine = Callable[..., Tensor]


@dataclass(frozen=True)
class Product:
    """What a method multiplies.

    Attributes:
        combine: C_b of A, G and R.
        gradient, relevance: which of them ``combine`` takes.
        start_layer: maps of a lower depth are left out.
        normalize: rows of I + C sum to 1.
        chosen: numbers of the only maps that count, without an I; None: all do, each with an I.
        passing: as of :class:`Weights`.
    """

    combine: Combine
    gradient: bool = False
    relevance: bool = False
    start_layer: int = 0
    normalize: bool = False
    chosen: frozenset[int] | None = None
    passing: bool = False

    def takes(self, number: int, map: AttentionMap) -> bool:
        if self.chosen is not None:
            return number in self.chosen
        return map.depth >= self.start_layer

    def counted(self, recording: Recording) -> frozenset[int]:
        """Numbers of the maps that count."""
        return frozenset(i for i, x in enumerate(recording.maps) if self.takes(i, x))

    @property
    def alone(self) -> bool:
        """Whether there is no I where a map counts."""
        return self.chosen is not None


def walk_product(
    backward: Backward,
    product: Product,
    tops: tuple[Top, Top],
    at: Top,
    ends: Mapping[str, Tensor],
    rules: Relevance | Corrected,
    free: bool,
) -> dict[str, Tensor]:
    """Weights of the ends, in their own shapes, by the name of their source.

    Args:
        tops: the logits, and what the gradient starts with; the same of relevance.
        at: what the head reads, and its weights.
        ends: by name, where weights end.
        rules: the walk of relevance.
        free: the recording goes as it is passed.
    """
    recording, pull = backward.recording, backward.pull
    lowest = min(tag(x).number for x in at[0])
    cuts = [cut for cut in reversed(recording.cuts) if cut.tag.number <= lowest]
    counted = product.counted(recording)
    found: dict[str, Tensor] = {}
    (gradient, relevance), high = tops, recording.count
    for cut in (*cuts, None):
        low = -1 if cut is None else cut.tag.number
        maps = _maps(recording, product, low, high)
        is_last = all(tag(x).number > low for x in ends.values())
        below = [] if cut is None or is_last else [cut.tensor]
        # Gradient and relevance go no further down than the maps that take them.
        further = below if _maps(recording, product, -1, low) else []
        inputs = [*(x.tensor for x in maps.values()), *further]
        G: Sequence[Tensor | None] = [None] * len(maps)
        R = G
        if product.gradient and inputs:
            *G, gradient = _split(pull(*gradient, inputs, None), further)
        if product.relevance and inputs:
            *R, relevance = _split(pull(*relevance, inputs, rules), further)
        factors = _factors(backward, product, maps, G, R, rules)
        del G, R
        scales = _scales(backward, product, factors)
        within = {name: x for name, x in ends.items() if low < tag(x).number <= high}
        walk = Weights(factors, scales, counted, product.alone, product.passing)
        w = pull(*at, [*below, *within.values()], walk, free)
        found |= dict(zip(within, w[len(below) :], strict=True))
        if is_last:
            break
        at, high = (below, w[: len(below)]), low
    return found


def _split(found: Sequence[Tensor], below: list[Tensor]) -> list:
    """What arrived at the maps, and where the walk goes on from with what."""
    if not below:
        return [*found, None]
    return [*found[:-1], (below, [found[-1]])]


def _maps(recording: Recording, product: Product, low: int, high: int) -> dict[int, AttentionMap]:
    return {
        i: map
        for i, map in enumerate(recording.maps)
        if low < map.number <= high and product.takes(i, map)
    }


def _factors(backward: Backward, product: Product, maps, G, R, rules) -> dict[int, Tensor]:
    """C_b of each map."""
    found, batch = {}, backward.recording.batch_size
    for (i, map), g, r in zip(maps.items(), G, R, strict=True):
        A = map.tensor if backward.differentiable else map.tensor.detach()
        r = None if r is None else rules.relevance(A, r)
        known = (None if x is None else map.canonical(x, batch) for x in (A, g, r))
        found[i] = product.combine(*known)
    return found


def _scales(backward: Backward, product: Product, factors: dict[int, Tensor]) -> dict[int, Tensor]:
    """What weights leave each sum that takes up attention, in its shape, by its number.

    With an I that is 1 + the row sums of its C_b where all of the attention goes through A V;
    without one the number of attentions side by side, which have their mean. A row sum is known
    where A V is, the 1 at the residual: both are carried to the sum by the transpose of the walk of
    weights from the sum to there.
    """
    found: dict[int, Tensor] = {}
    recording, live = backward.recording, bool(backward.differentiable)
    if not product.normalize and not product.alone:
        return found
    for stream in recording.streams.values():
        taken = [i for i in stream.maps if i in factors]
        if stream.residual is None or not taken or product.alone and len(taken) < 2:
            continue
        places = [p for i in taken for p in recording.maps[i].products]
        at = torch.zeros_like(stream.tensor, requires_grad=True)
        inputs = [stream.residual[0], *(edge for edge, *_ in places)]
        walk = Weights(counted=frozenset(taken), alone=product.alone)
        with torch.enable_grad():
            arriving = backward.pull([stream.tensor], [at], inputs, walk, graph=True)
        leaving = [at.new_ones(stream.residual[1])]
        for _, shape, of_map in places:
            r = factors[of_map.map].sum(dim=-1)
            ones = torch.ones_like(r)
            each = to_output(of_map, ones, shape)
            leaving.append(to_output(of_map, ones if product.alone else r, shape) / each)
        (scale,) = torch.autograd.grad(arriving, at, leaving, create_graph=live)
        found[stream.tag.number] = scale.masked_fill(scale == 0, 1)  # where no attention comes
    return found
