"""Whether tokens keep their places from one attention to the next.

The published rule for several sets of tokens multiplies matrices whose rows and columns are the
tokens of a set, in one order. That holds where each token, marked by a number of its own and
followed down by the walk of weights, is found where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from relprop.errors import UnsupportedModel
from relprop.recording.record import AttentionMap, Stream
from relprop.recording.tags import State, tag
from relprop.rules.weights import Weights, rows_of, to_values
from relprop.walks.ends import Ends
from relprop.walks.starts import Starts, over_channels


def in_order(
    starts: Starts, ends: Ends, held: Sequence[Tensor], first: Mapping[State, AttentionMap]
) -> list[Tensor]:
    """Shares ``held`` of what the head reads, at the tokens of the states: [B, n] of each start.

    Args:
        first: of the sets of tokens, the map that attends to them first.

    Raises:
        UnsupportedModel: tokens have moved, or are a part of those of their state.
    """
    sums = {s.tag.number: s for s in ends.recording.streams.values() if s.product is None}
    order = Order(ends, sums, first)
    for x in ends.recording.maps:
        if x.values is not None:
            order.check_values(x)
    for stream in sums.values():
        if stream.maps:
            order.check_sum(stream)
    return [order.carried(start, w) for start, w in zip(starts.streams, held, strict=True)]


@dataclass
class Order:
    """The places of tokens in the states of a recording.

    ``sums``: by number. ``first``: as of :func:`in_order`.
    """

    ends: Ends
    sums: Mapping[int, Stream]
    first: Mapping[State, AttentionMap]

    def carried(self, start: Stream, held: Tensor) -> Tensor:
        """Shares of the tokens of a start, at those of its state: it may be a sum of them."""
        state = start.tag.state
        if start.product is not None:  # which no sum has taken up
            raise moved_tokens(start.tensor.shape)
        if state is not None and state.number in self.sums and state not in self.first:
            return self._seen(start.tensor, over_channels(start.tensor, held), state)
        self.check(start.tensor, *self.marked(start.tensor), state)
        return held

    def check_values(self, x: AttentionMap) -> None:
        """The keys of a map are all tokens of their state, in its order."""
        assert x.values is not None
        marks = self._marks(x.tensor.shape[x.order[-1]])
        self.check(x.values[0], marks, self._at_values(x, marks), x.key)

    def check_sum(self, stream: Stream) -> None:
        """So are the tokens of a sum those of its residual, and the queries of its maps."""
        marks, weights = self.marked(stream.tensor)
        state, recording = stream.tag.state, self.ends.recording
        if state is not None and state.base is not None:
            self.check(stream.tensor, marks, weights, state.base)
        for number in stream.maps:
            products = recording.maps[number].products
            edges = [edge for edge, *_ in products]
            walk = Weights(counted=frozenset(stream.maps))
            arriving = self.ends.backward.pull([stream.tensor], [weights], edges, walk)
            rows = [
                rows_of(product, w.expand(shape), recording.batch_size)
                for w, (_, shape, product) in zip(arriving, products, strict=True)
            ]
            found = torch.stack([r.flatten(1) for r in rows]).sum(dim=0)
            self._compare(found, marks, stream.tensor.shape)

    def check(
        self, place: Tensor | GradientEdge, marks: Tensor, weights: Tensor, state: State | None
    ) -> None:
        """Raises UnsupportedModel where marked tokens are not those of a state, in its order."""
        if state is None:
            return
        expected, found = self._in(state, marks), self._seen(place, weights, state)
        self._compare(found, expected, weights.shape)

    def marked(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Marks of the tokens of a stream, and the weights that carry them."""
        batch = self.ends.recording.batch_size
        tokens = x.select(tag(x).channels, 0)
        if x.shape[0] != batch:
            raise moved_tokens(x.shape)
        marks = self._marks(tokens[0].numel())
        return marks, over_channels(x, marks.view(tokens.shape[1:]).expand(tokens.shape))

    def _marks(self, count: int) -> Tensor:
        """A number for each token, far from those of its neighbours."""
        steps = torch.arange(count, dtype=torch.float64, device="cpu") * 0.6180339887
        return (0.5 + steps % 1).to(self.ends.backward.logits)

    def _at_values(self, x: AttentionMap, marks: Tensor) -> Tensor:
        (_, shape), (_, output, product) = x.values, x.products[0]  # type: ignore[misc]
        batch = self.ends.recording.batch_size
        return to_values(product, marks.expand(batch, -1), output, shape)

    def _in(self, state: State, marks: Tensor) -> Tensor:
        """Where marks of all tokens of a state are seen, [B, ...]."""
        if state in self.first and (x := self.first[state]).values is not None:
            if len(marks) != x.tensor.shape[x.order[-1]]:
                raise moved_tokens(marks.shape)
            return self._seen(x.values[0], self._at_values(x, marks), state)
        if state.parts:
            counts = [self._count(part) for part in state.parts]
            if sum(counts) != len(marks):
                raise moved_tokens(marks.shape)
            each = zip(state.parts, marks.split(counts), strict=True)
            return torch.cat([self._in(part, m) for part, m in each], dim=1)
        return marks.expand(self.ends.recording.batch_size, -1)

    def _count(self, state: State) -> int:
        if state in self.first:
            return self.first[state].tensor.shape[self.first[state].order[-1]]
        if state.parts:
            return sum(self._count(part) for part in state.parts)
        if state.number not in self.sums:
            raise moved_tokens(torch.Size())
        return len(self.marked(self.sums[state.number].tensor)[0])

    def _seen(self, place: Tensor | GradientEdge, weights: Tensor, state: State) -> Tensor:
        """What arrives at the tokens of a state: at its sum, or at its sources. [B, ...]."""
        if state.parts and state not in self.first:
            return torch.cat([self._seen(place, weights, part) for part in state.parts], dim=1)
        if state.number in self.sums and state not in self.first:
            x = self.sums[state.number].tensor
            (found,) = self.ends.backward.pull([place], [weights], [x], Weights())
            return found.sum(dim=tag(x).channels).flatten(1)
        at_sources = self.ends.transported([place], [weights])
        return torch.cat([at_sources[name].flatten(1) for name in state.home], dim=1)

    def _compare(self, found: Tensor, expected: Tensor, shape: Sequence[int]) -> None:
        same = found.shape[1:] == expected.shape[-1:]
        bound = 1e-3 if found.dtype in (torch.float32, torch.float64) else 0.05
        if not same or (found - expected).abs().max() > bound:
            raise moved_tokens(shape)


def moved_tokens(shape: Sequence[int]) -> UnsupportedModel:
    return UnsupportedModel(
        f"bimodal_attention follows whole sets of tokens, each in its order, and those of "
        f"{list(shape)} are moved, selected, mixed, or have attention that no sum took up; "
        "accepted: tokens that keep their places between the blocks; or a method that follows "
        "tokens, such as generic_attention"
    )
