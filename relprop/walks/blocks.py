"""What each block of a chain puts out, and the class logits of it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from relprop.errors import UnsupportedModel
from relprop.recording.record import AttentionMap, Recording, Stream
from relprop.recording.run import walking
from relprop.recording.tags import tag
from relprop.recording.tail import Tail
from relprop.walks.backward import Backward
from relprop.walks.maps import check_whole, streams_after

Of = Literal["block", "attention", "mlp"]


@dataclass
class Blocks:
    """Blocks of one chain; ``maps``: their attention maps."""

    backward: Backward
    maps: Sequence[AttentionMap]

    @property
    def recording(self) -> Recording:
        return self.backward.recording

    @functools.cached_property
    def attending(self) -> list[Stream]:
        """The sums x + attention(x), one a block."""
        check_whole(self.recording)
        sums = list(self.recording.streams.values())
        numbers = range(len(self.maps))
        found = [[s for s in sums if s.product is None and number in s.maps] for number in numbers]
        for taking in found:
            if len(taking) != 1 or taking[0].base is None or taking[0].tensor.ndim != 3:
                raise UnsupportedModel(
                    "a block does not add its attention to its tokens [B, N, D], once; accepted: "
                    "blocks that do; or a method that asks for less, such as attnlrp"
                )
        return [s for (s,) in found]

    @functools.cached_property
    def entering(self) -> list[Tensor]:
        """What enters each block, [B, N, D]."""
        return [s.base for s in self.attending if s.base is not None]

    @functools.cached_property
    def sums(self) -> list[Tensor]:
        """The last sum of each block, [B, N, D]."""
        streams_after(self.recording, self.maps)  # which refuses what is no chain
        ends = [*(x.number for x in self.maps[1:]), self.recording.count]
        return [
            [
                cut.tensor
                for cut in self.recording.cuts
                if cut.tag.depth == taking.tag.depth
                and cut.tag.number < end
                and cut.tensor.shape == taking.tensor.shape
            ][-1]
            for taking, end in zip(self.attending, ends, strict=True)
        ]

    @functools.cached_property
    def _end(self) -> tuple[Tensor, Tail]:
        """What the last block puts out, [B, N, D], and the rest of the model.

        Where blocks end with a norm, as BERT's do, it is what that makes of the sum.
        """
        last, logits = self.sums[-1], self.backward.logits
        steps, numbers = list(self.recording.steps), (tag(last).number, tag(logits).number)
        tail = Tail(steps, *numbers, last.shape[1])
        between = [x is s for x, s in zip(self.entering[1:], self.sums[:-1], strict=True)]
        normed = None if all(between) else tail.after_norm()
        if normed is None:
            return last, tail
        rest, step = normed
        with walking(logits.device), torch.enable_grad():
            return Tail([step], tail.start, rest.start, last.shape[1])(last), rest

    def states(self, of: Of) -> list[Tensor]:
        """What each block puts out, or what its attention or its MLP adds, [B, N, D]."""
        if of == "attention":
            return [s.branch for s in self.attending if s.branch is not None]
        if of == "block":
            last, _ = self._end
            is_normed = last is not self.sums[-1]
            return [*(self.entering[1:] if is_normed else self.sums[:-1]), last]
        ends = {id(s.tensor): s for s in self.recording.streams.values()}
        found = [ends[id(x)] for x in self.sums]
        if any(s.maps for s in found):
            raise UnsupportedModel("a block has no MLP after its attention; accepted: one that has")
        return [s.branch for s in found if s.branch is not None]

    def logits(self, state: Tensor) -> Tensor:
        """Logits [B, C] of a state [B, N, D] in place of the last block's."""
        with walking(self.backward.logits.device), torch.enable_grad():
            return self._end[1](state)

    def logits_of_each(self, states: Tensor) -> Tensor:
        """Logits [B, M, C] of states [B, M, D]: each as if all tokens of the sample had it."""
        with walking(self.backward.logits.device), torch.enable_grad():
            return self._end[1].of_each(states)
