"""What is known of tensors that numbers are moved to: views, joins, selections, the greatest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.recording import operations as ops
from relprop.recording.operations import Operation
from relprop.recording.record import Recording
from relprop.recording.stacks import joined, moved, tag_of_part
from relprop.recording.tags import (
    EXPONENTIAL,
    State,
    Tag,
    follow,
    on_path,
    role,
    set_tag,
    tag,
    tensors_in,
)


def note_moved(
    recording: Recording,
    function: Callable,
    operation: Operation,
    output: Any,
    path: list[Tensor],
    args,
    kwargs,
) -> None:
    """Give the outputs of a call that moves numbers their tags."""
    tags = [tag(x) for x in path]
    first = tags[0]
    recording.is_coupled |= function in ops.PUTS and recording.batch_size > 1
    changes: dict[str, Any] = {"role": first.role, "query": first.query, "key": first.key}
    changes["multiple"] = any(t.multiple for t in tags)
    changes["norm_of"] = first.norm_of if len(tags) == 1 else -1
    changes["to_constants"] = function in ops.SAME_PLACES and first.to_constants
    outputs = tensors_in(output)
    of_stack: list[dict[str, Any]] = [{}] * len(outputs)
    if operation is ops.WINNER:
        changes = {"mixed": True, "stack": None}
        if len(tags) == 1 and outputs[0].shape == (*path[0].shape[:-1], 1):
            changes |= {"origin": first.origin, "multiple": False, "statistic": True}
    elif function in ops.SAME_NUMBERS:
        changes |= {"origin": first.origin, "multiple": first.multiple}
        changes |= {"statistic": first.statistic, "stack": first.stack}
    elif len(tags) == 1 and first.stack is not None:
        of_stack = moved(function, args, kwargs, first.stack)
    elif function in ops.JOINS and (state := joint(tags, path, args, kwargs)) is not None:
        changes["state"] = state
    if len(tags) > 1 or function in ops.STACKS:
        changes |= joined(function, path, args, kwargs, outputs[0])
    for x, part in zip(outputs, of_stack, strict=True):
        if any(x is t for t in path) or not on_path(x):
            continue
        number = recording.next_number()
        if "part" in part:
            set_tag(x, tag_of_part(part["part"], number))
            continue
        changes["channels"] = first.channels if x.shape == path[0].shape else -1
        changes["form"] = first.form if len(tags) == 1 else 0
        changes["flattened"] = _flattened(path[0], x) if len(tags) == 1 else None
        changes["padded"] = _padded(*args, **kwargs) if function is F.pad else ()
        changes["rows"] = _rows(recording.batch_size, function, path[0], x)
        set_tag(x, follow(number, tags, **changes | part))
        if role(x) == EXPONENTIAL:  # masked, as a part of a softmax by hand
            exponentials = recording.exponentials
            exponentials[tag(x).origin] = exponentials.get(first.origin, [])


def _rows(batch: int, function: Callable, x: Tensor, output: Tensor) -> int:
    """Entries of each sample in the first dimension, where samples stay one after the other."""
    known, count = tag(x).rows, len(output) if output.ndim else 0
    if function in ops.SAME_PLACES:
        return known
    is_first = x.shape[:1] == (batch,) and x.shape.count(batch) == 1  # else it may be another
    of_samples = function in ops.RESHAPES and (known > 0 or is_first)
    return count // batch if of_samples and count > batch and count % batch == 0 else 0


def _padded(input, pad, mode="constant", value=None) -> tuple[int, ...]:
    """How many zeros are put at each end of the dimensions of a tensor, the last first."""
    are_zeros = mode == "constant" and not value and all(count >= 0 for count in pad)
    return tuple(pad) if are_zeros else ()


def _flattened(x: Tensor, output: Tensor) -> torch.Size | None:
    """The shape of a feature map of which each sample has become a row."""
    is_map = x.ndim > 2 and tag(x).channels == 1 and x.numel() == output.numel()
    return x.shape if is_map and output.ndim == 2 and len(x) == len(output) else None


def joint(tags: list[Tag], path: list[Tensor], args, kwargs) -> State | None:
    """The state of tokens of several sources in one sequence [B, N, D]; None if there are none."""
    states = list(dict.fromkeys(t.state for t in tags if t.state is not None))
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    if len(states) < 2 or path[0].ndim != 3 or dim not in (1, -2):
        return None
    home = tuple(dict.fromkeys(name for state in states for name in state.home))
    return State(max(s.number for s in states), home=home, parts=tuple(states))
