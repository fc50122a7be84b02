"""What the head reads: where the weight of tokens starts, and how much each of them has."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from relprop.errors import UnsupportedModel
from relprop.recording.graph import Call, Corrected, Relevance, Walk
from relprop.recording.record import Recording, Stream
from relprop.recording.tags import tag
from relprop.rules.weights import Weights, rows_of, to_output
from relprop.walks.backward import Backward, Top


@dataclass
class Stopping:
    """A walk that ends at streams."""

    walk: Walk
    numbers: frozenset[int]

    def back(self, node, call: Call, arriving: Tensor):
        return () if call.number in self.numbers else self.walk.back(node, call, arriving)


def streams_read(recording: Recording, logits: Tensor) -> list[Stream]:
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


class Starts:
    """The streams that the head of a recorded model reads, the newest first."""

    def __init__(self, backward: Backward) -> None:
        self.backward = backward
        self.streams = streams_read(backward.recording, backward.logits)

    @functools.cached_property
    def tensors(self) -> list[Tensor]:
        return [start.tensor for start in self.streams]

    @property
    def last_maps(self) -> frozenset[int]:
        """Numbers of the maps that the tokens which the head reads took up last."""
        found: set[int] = set()
        for start in self.streams:
            state, pending = start.tag.state, start.tag.pending
            if start.product is not None:
                found.update(start.maps)
            elif state is None or pending:
                found |= pending
            else:
                found.update(state.maps, *(part.maps for part in state.parts))
        return frozenset(found)

    @property
    def deepest(self) -> int:
        """The greatest depth of an attention map, of several towers that of the least deep one.

        So that from there up each source has a map that leads to it; 0 without any.
        """
        towers = [self._joined(start) for start in self.streams]
        return min((max(s.tag.depth for s in tower) - 1 for tower in towers), default=0)

    def shares(self, top: Top, walk: Relevance | Corrected) -> list[Tensor]:
        """|sum_c R| of each token, over its sum in all starts of the same sources.

        R comes from the logits and through no other start. [B, N], or [*, n] of a product A V.
        """
        tensors, numbers = self.tensors, frozenset(start.tag.number for start in self.streams)
        arriving = self.backward.pull(*top, tensors, Stopping(walk, numbers))
        batch = self.backward.recording.batch_size
        held = [
            _tokens(start, walk.relevance(self.backward.value(x), r), batch).abs()
            for start, x, r in zip(self.streams, tensors, arriving, strict=True)
        ]
        found = []
        for start, tokens in zip(self.streams, held, strict=True):
            joined = self._joined(start)
            group = [h for other, h in zip(self.streams, held, strict=True) if other in joined]
            total = torch.stack([h.flatten(1).sum(dim=1) for h in group]).sum(dim=0)
            total = total.masked_fill(total == 0, torch.inf)  # where nothing arrives, 0
            share = tokens / total.view(-1, *[1] * (tokens.ndim - 1))
            found.append(torch.nan_to_num(share))
        return found

    def weights(self, top: Top, walk: Relevance | Corrected) -> list[Tensor]:
        """:meth:`shares`, each in the shape of its start."""
        held = self.shares(top, walk)
        return [in_shape(start, x) for start, x in zip(self.streams, held, strict=True)]

    def of_last_block(self, top: Top, walk: Relevance | Corrected) -> Tensor:
        """Shares of the tokens that the last block puts out, [B, N].

        Raises:
            UnsupportedModel: the head reads more than these.
        """
        recording = self.backward.recording
        lowest = min(start.tag.number for start in self.streams)
        below = [x.tensor for x in recording.cuts if x.tag.number <= lowest and x.tensor.ndim == 3]
        if not below or tag(below[-1]).depth < len(recording.maps):
            raise UnsupportedModel(
                "the head does not read the tokens of one last block: the model is no single chain "
                "of blocks, or its head reads earlier ones, too; accepted: one chain whose last "
                "block is read; or a method that follows tokens, such as transformer_attribution"
            )
        if below[-1] is self.tensors[0]:
            return self.shares(top, walk)[0]
        weights = self.weights(top, walk)
        (found,) = self.backward.pull(self.tensors, weights, below[-1:], Weights())
        return found.sum(dim=-1)

    def _joined(self, start: Stream) -> list[Stream]:
        """The starts that share a source with one, or sources with others that do."""
        known, before = set(start.tag.sources), -1
        while len(known) != before:
            before = len(known)
            for other in self.streams:
                if known & other.tag.sources:
                    known |= other.tag.sources
        return [other for other in self.streams if known & other.tag.sources]


def _tokens(start: Stream, x: Tensor, batch: int) -> Tensor:
    """What each token has of ``x``, of the shape of a start, in all channels: [B, ...]."""
    if start.product is not None:
        return rows_of(start.product, x, batch)
    return x.sum(dim=start.tag.channels)


def in_shape(start: Stream, tokens: Tensor) -> Tensor:
    """Weights of tokens spread evenly over channels and heads, in the shape of a start."""
    if start.product is not None:
        return to_output(start.product, tokens, start.tensor.shape)
    return over_channels(start.tensor, tokens)


def over_channels(x: Tensor, tokens: Tensor) -> Tensor:
    """What tokens [B, ...] have, spread evenly over the channels of ``x``."""
    channels = tag(x).channels
    return (tokens.unsqueeze(channels) / x.shape[channels]).expand_as(x)
