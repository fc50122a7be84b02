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
from torch.autograd.graph import Node, get_gradient_edge

from relprop.recording.graph import Call, Corrected, Walk
from relprop.recording.record import AttentionMap, Recording, Stream
from relprop.recording.tags import tag
from relprop.rules.weights import Weights, rows_of, to_output

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
    """

    combine: Combine
    gradient: bool = False
    relevance: bool = False
    start_layer: int = 0
    normalize: bool = False
    chosen: frozenset[int] | None = None

    def takes(self, number: int, map: AttentionMap) -> bool:
        if self.chosen is not None:
            return number in self.chosen
        return map.depth >= self.start_layer


@dataclass
class Stopping:
    """A walk that ends at streams."""

    walk: Walk
    numbers: frozenset[int]

    def back(self, node, call: Call, arriving: Tensor):
        return () if call.number in self.numbers else self.walk.back(node, call, arriving)


def starts_of(recording: Recording, logits: Tensor) -> list[Stream]:
    """What the head reads: of the sums and products A V on its ways down, the first on each."""
    found: dict[int, Stream] = {}
    seen: set[Node] = set()
    left = [get_gradient_edge(logits).node]
    while left:
        node = left.pop()
        known = recording.streams.get(node)
        if known is not None and known.is_read:
            found[known.tag.number] = known
            continue
        for below, _ in node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                left.append(below)
    return [found[number] for number in sorted(found, reverse=True)]


def shares(starts: Sequence[Stream], relevance: Sequence[Tensor], batch: int) -> list[Tensor]:
    """|sum_c R| of each token of the starts, over its sum in all starts of the same sources.

    [B, N] or [*, n], as of :func:`in_shape`.
    """
    held = [_tokens(start, R, batch).abs() for start, R in zip(starts, relevance, strict=True)]
    found = []
    for start, tokens in zip(starts, held, strict=True):
        group = [h for other, h in zip(starts, held, strict=True) if _joined(start, other, starts)]
        total = torch.stack([h.flatten(1).sum(dim=1) for h in group]).sum(dim=0)
        share = tokens / total.view(-1, *[1] * (tokens.ndim - 1))
        found.append(torch.nan_to_num(share))
    return found


def _joined(a: Stream, b: Stream, starts: Sequence[Stream]) -> bool:
    """Whether two starts share a source, or sources with others that do."""
    known, before = set(a.tag.sources), -1
    while len(known) != before:
        before = len(known)
        for start in starts:
            if known & start.tag.sources:
                known |= start.tag.sources
    return bool(known & b.tag.sources)


def _tokens(start: Stream, x: Tensor, batch: int) -> Tensor:
    """What each token has of ``x``, of the shape of a start, in all channels: [B, ...]."""
    if start.product is not None:
        return rows_of(start.product, x, batch)
    return x.sum(dim=start.tag.channels)


def in_shape(start: Stream, tokens: Tensor) -> Tensor:
    """Weights of tokens spread evenly over channels and heads, in the shape of a start."""
    shape = start.tensor.shape
    if start.product is not None:
        return to_output(start.product, tokens, shape)
    of_channels = tokens.unsqueeze(start.tag.channels) / shape[start.tag.channels]
    return of_channels.expand(shape)


def walk_product(
    recording: Recording,
    product: Product,
    pull: Callable[..., tuple[Tensor, ...]],
    top: tuple[Sequence[Tensor], Sequence[Tensor]],
    at: tuple[Sequence[Tensor], Sequence[Tensor]],
    ends: Mapping[str, tuple[Tensor, int]],
    rules: Walk | None = None,
) -> dict[str, Tensor]:
    """Weights of the ends, in their own shapes, by the name of their source.

    Args:
        pull: (outputs, what arrives there, inputs, walk, last) -> what arrives at the inputs.
        top: the logits, and what gradient and relevance start with.
        at: the starts, and their weights.
        ends: by name, where weights end, and the number of that tensor.
        rules: the walk of relevance.
    """
    lowest = min(tag(x).number for x in at[0])
    cuts = [cut for cut in reversed(recording.cuts) if cut.tag.number <= lowest]
    found: dict[str, Tensor] = {}
    gradient, relevance, high = top, top, recording.count
    for cut in (*cuts, None):
        low = -1 if cut is None else cut.tag.number
        maps = _maps(recording, product, low, high)
        is_last = all(number > low for _, number in ends.values())
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
        factors = _factors(recording, product, maps, G, R, rules)
        del G, R
        scales = _scales(recording, factors, pull) if product.normalize else {}
        within = {name: x for name, (x, number) in ends.items() if low < number <= high}
        walk = Weights(factors, scales, product.chosen or frozenset())
        w = pull(*at, [*below, *within.values()], walk, last=True)
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


def _factors(recording, product: Product, maps, G, R, rules) -> dict[int, Tensor]:
    """C_b of each map."""
    found = {}
    for (i, map), g, r in zip(maps.items(), G, R, strict=True):
        A = map.tensor.detach()
        if r is not None and isinstance(rules, Corrected):
            r = r * A
        known = (None if x is None else map.canonical(x, recording.batch_size) for x in (A, g, r))
        found[i] = product.combine(*known)
    return found


def _scales(recording: Recording, factors: dict[int, Tensor], pull) -> dict[int, Tensor]:
    """What weights leave each sum that takes up attention, in its shape, by its number.

    That is 1 + the row sums of its C_b where all of the attention goes through A V. A row sum is
    known where A V is, the 1 at the residual: both are carried to the sum by the transpose of the
    walk of weights from the sum to there.
    """
    found = {}
    for stream in recording.streams.values():
        taken = [i for i in stream.maps if i in factors]
        if stream.residual is None or not taken:
            continue
        places = [p for i in taken for p in recording.maps[i].products]
        at = torch.zeros_like(stream.tensor, requires_grad=True)
        inputs = [stream.residual[0], *(edge for edge, *_ in places)]
        with torch.enable_grad():
            arriving = pull([stream.tensor], [at], inputs, Weights(), graph=True)
        leaving = [at.new_ones(stream.residual[1])]
        for _, shape, of_map in places:
            r = factors[of_map.map].sum(dim=-1)
            each = to_output(of_map, torch.ones_like(r), shape)
            leaving.append(to_output(of_map, r, shape) / each)
        (found[stream.tag.number],) = torch.autograd.grad(arriving, at, leaving)
    return found
