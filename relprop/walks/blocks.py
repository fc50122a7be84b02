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
    def sums(self) -> list[Tensor]:
        """The last sum of each block, [B, N, D]."""
        streams_after(self.recording, self.maps)  # which refuses what is no chain
        ends = [*(x.number for x in self.maps[1:]), self.recording.count]
        return [self._last_sum(s, end) for s, end in zip(self.attending, ends, strict=True)]

    def _last_sum(self, attending: Stream, end: int) -> Tensor:
        """The last sum after a block's attention, and before the tensor number ``end``."""
        known, shape = attending.tag, attending.tensor.shape
        for cut in reversed(self.recording.cuts):
            is_after = cut.tag.depth == known.depth and known.number <= cut.tag.number < end
            if is_after and cut.tensor.shape == shape:
                return cut.tensor
        raise UnsupportedModel(
            "what a block puts out is read beside what the next ones put out; accepted: one chain "
            "of blocks whose last one the head reads"
        )

    @functools.cached_property
    def _last(self) -> list[Stream]:
        """:attr:`sums`, with what they are of."""
        known = {id(s.tensor): s for s in self.recording.streams.values()}
        return [known[id(x)] for x in self.sums]

    @functools.cached_property
    def _are_parallel(self) -> bool:
        """Whether attention is added to an MLP, and both to the tokens: (attn(x) + mlp(x)) + x."""
        pairs = list(zip(self.attending[1:], self._last[1:], self.sums[:-1], strict=True))
        return all(s.base is not x and last.base is x for s, last, x in pairs) and bool(pairs)

    @functools.cached_property
    def entering(self) -> list[Tensor]:
        """What enters each block, [B, N, D]."""
        sums = self._last if self._are_parallel else self.attending
        return [s.base for s in sums if s.base is not None]

    @functools.cached_property
    def _end(self) -> tuple[Tensor, Tail]:
        """What the last block puts out, [B, N, D], and the rest of the model.

        Where blocks end with a norm, as BERT's do, it is what that makes of the sum.
        """
        last, logits = self.sums[-1], self.backward.logits
        steps, numbers = list(self.recording.steps), (tag(last).number, tag(logits).number)
        tail = Tail(steps, *numbers, last.shape[1])
        between = zip(self.entering[1:], self.sums[:-1], strict=True)
        are_made = [tag(x).number == tag(s).number + 1 for x, s in between]  # of it, at once
        normed = tail.after_norm() if are_made and all(are_made) else None
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
        if self._are_parallel or any(s.maps for s in self._last):
            raise UnsupportedModel(
                "a block does not add an MLP after its attention; accepted: one that does"
            )
        return [s.branch for s in self._last if s.branch is not None]

    def logits(self, state: Tensor) -> Tensor:
        """Logits [B, C] of a state [B, N, D] in place of the last block's."""
        last, tail = self._end
        if state.shape != last.shape:
            raise _of_other_size(state, last)
        with walking(self.backward.logits.device), torch.enable_grad():
            return tail(state)

    def logits_of_each(self, states: Tensor) -> Tensor:
        """Logits [B, M, C] of states [B, M, D]: each as if all tokens of the sample had it."""
        last, tail = self._end
        if states.shape[-1] != last.shape[-1]:
            raise _of_other_size(states, last)
        with walking(self.backward.logits.device), torch.enable_grad():
            return tail.of_each(states)


def _of_other_size(state: Tensor, last: Tensor) -> UnsupportedModel:
    return UnsupportedModel(
        f"a state {list(state.shape)} has no logits: the head reads states {list(last.shape)}, as "
        "of the last block; accepted: blocks that are all of one size; or a method that asks for "
        "less, such as attnlrp"
    )
