"""The calls after the last attention map, to be run again on other states than the model's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from relprop.errors import UnsupportedModel
from relprop.recording import operations as ops
from relprop.recording.operations import OPERATIONS
from relprop.recording.tags import mapped, on_path, tag, tensors_in


@dataclass(frozen=True)
class Place:
    """Stands for a tensor of the recording, by its number: a step holds no tensor of it."""

    number: int


class Step(NamedTuple):
    """A call as it was made. ``outputs``: numbers of its tensors; None of one off the path."""

    function: Callable
    args: tuple
    kwargs: dict[str, Any]
    outputs: tuple[int | None, ...]

    @property
    def reads(self) -> list[int]:
        return [x.number for x in _places(self.args, tuple(self.kwargs.values()))]


def step_of(function: Callable, args: tuple, kwargs: dict[str, Any], output: Any) -> Step:
    """What is kept of a call that is made again."""
    numbers = tuple(tag(x).number if on_path(x) else None for x in tensors_in(output))
    return Step(function, _kept(args), {name: _kept(x) for name, x in kwargs.items()}, numbers)


def _kept(value: Any) -> Any:
    def place(x: Any) -> Any:
        return Place(tag(x).number) if isinstance(x, Tensor) and on_path(x) else x

    return mapped(value, place)


def _places(*values: Any) -> list[Place]:
    found: list[Place] = []
    for value in values:
        if isinstance(value, Place):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found.extend(_places(*value))
    return found


def _given(value: Any, known: Mapping[int, Tensor]) -> Any:
    def tensor(x: Any) -> Any:
        if not isinstance(x, Place):
            return x
        if x.number not in known:
            raise UnsupportedModel(
                "the head reads more than what the last block puts out, so that a state of another "
                "block has no logits; accepted: a model whose head reads its last block alone"
            )
        return known[x.number]

    return mapped(value, tensor)


@dataclass(frozen=True)
class Tail:
    """From what the last block puts out, [B, N, D], to the logits [B, C].

    Attributes:
        steps: the calls.
        start: the number of what the last block puts out.
        end: that of the logits.
        tokens: N.
    """

    steps: Sequence[Step]
    start: int
    end: int
    tokens: int

    def __call__(self, state: Tensor) -> Tensor:
        """Logits [B, C] of a state [B, N, D] in place of the last block's."""
        return _run(self.steps, self.start, state, self.end)

    def of_each(self, states: Tensor) -> Tensor:
        """Logits [B, M, C] of states [B, M, D]: each as if all tokens of the sample had it."""
        steps, number = list(self.steps), self.start
        while (step := _next_tokenwise(steps, number)) is not None:
            (after,) = step.outputs
            assert after is not None
            states = _run([step], number, states, after)
            steps, number = [x for x in steps if x is not step], after

        def of_one(state: Tensor) -> Tensor:
            return _run(steps, number, state[:, None].expand(-1, self.tokens, -1), self.end)

        # Of another layout matmul takes another way, which rounds otherwise.
        return torch.vmap(of_one, out_dims=1)(states.transpose(0, 1).contiguous())

    def after_norm(self) -> tuple[Tail, Step] | None:
        """The rest of it where its first call is a norm, and that call; None where it is none."""
        step = _next_tokenwise(self.steps, self.start)
        if step is None or OPERATIONS.get(step.function) not in NORMS:
            return None
        (after,) = step.outputs
        assert after is not None
        rest = [x for x in self.steps if x is not step]
        return Tail(rest, after, self.end, self.tokens), step


NORMS = [x for x in ops.VOCABULARY if x.name in ("layer_norm", "rms_norm")]


def _next_tokenwise(steps: Sequence[Step], number: int) -> Step | None:
    """The only call that reads a tensor, if it makes of each token another, whichever it is."""
    readers = [x for x in steps if number in x.reads]
    if len(readers) != 1 or readers[0].reads != [number] or len(readers[0].outputs) != 1:
        return None
    (step,) = readers
    operation = OPERATIONS.get(step.function)
    if operation in NORMS:
        shape = step.kwargs.get("normalized_shape", (step.args[1:] or [None])[0])
        return step if shape is not None and len(shape) == 1 else None
    if operation is ops.LINEAR:
        return step
    constants = tensors_in(*step.args, *step.kwargs.values())
    elementwise = operation is not None and operation.elementwise and operation.unchanged
    return step if elementwise and all(x.ndim < 2 for x in constants) else None


def _run(steps: Sequence[Step], start: int, state: Tensor, end: int) -> Tensor:
    """What calls make of a state that stands for the tensor ``start``."""
    known = {start: state}
    for step in steps:
        if known.keys().isdisjoint(step.reads):
            continue
        args = _given(step.args, known)
        kwargs = {name: _given(x, known) for name, x in step.kwargs.items()}
        outputs = tensors_in(step.function(*args, **kwargs))
        made = zip(step.outputs, outputs, strict=True)
        known |= {number: x for number, x in made if number is not None}
    return _given(Place(end), known)
