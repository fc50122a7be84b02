"""Streams that a model stacks: which of them have attention that no sum has taken up yet.

``torch.stack([a(x), b(x)]).sum(0)`` is ``a(x) + b(x)``, and is recorded as that. Where it is lost
which stream lies where, a sum over them is noted as unclear.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from relprop.recording import operations as ops
from relprop.recording.operations import Operation
from relprop.recording.tags import Stack, Tag, on_path, tag, tensors_in


def joined(function: Callable, path: list[Tensor], args, kwargs, output) -> dict[str, Any]:
    """What the tag of several streams in one tensor has, if other attention is pending in each."""
    streams = tensors_in(*args, *kwargs.values())
    parts = tuple(tag(x) if on_path(x) else None for x in streams)
    of_pending = {part.pending for part in parts if part is not None}
    if len(of_pending) == 1 and (function not in ops.STACKS or None not in parts):
        return {}
    if not any(of_pending):
        return {}
    if function not in ops.STACKS | ops.JOINS:
        return {"apart": True}  # torch.where, torch.maximum
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    dim = dim - output.ndim if dim >= 0 else dim
    is_new = function in ops.STACKS or output.ndim > 3 and all(x.shape[dim] == 1 for x in streams)
    if is_new:
        return {"apart": True, "stack": Stack(parts, dim)}
    channels = tag(path[0]).channels
    of_channels = dim == (channels if channels < 0 else channels - output.ndim)
    return {"apart": True} if of_channels else {}


def moved(function: Callable, args, kwargs, stack: Stack) -> list[dict[str, Any]]:
    """What becomes of a stack in each tensor that a function moves its numbers to.

    The function moves the places of the streams alike.
    """
    lost: dict[str, Any] = {"stack": stack._replace(dim=None)}
    if stack.dim is None or not args or not isinstance(args[0], Tensor):
        return [lost] * len(tensors_in(function(*args, **kwargs)))
    places = _places(args[0].shape, stack.dim, args[0].device)
    found: list[dict[str, Any]] = []
    for x in tensors_in(function(places, *args[1:], **kwargs)):
        dims = (d for d in range(-x.ndim, 0) if x.shape[d] == len(stack.parts))
        dim = next((d for d in dims if torch.equal(x, _places(x.shape, d, x.device))), None)
        if dim is not None:
            found.append({"stack": stack._replace(dim=dim)})
        elif x.numel() and (one := stack.parts[int(x.flatten()[0])]) and bool((x == x.max()).all()):
            found.append({"part": one})
        else:  # merged with another dimension, such as heads with channels
            found.append({"stack": None})
    return found


def _places(shape: torch.Size, dim: int, device) -> Tensor:
    """The number of its stream at each place of a stack; any shape is a view of it."""
    numbers = torch.arange(shape[dim], device=device)
    return numbers.view(-1, *[1] * (-dim - 1)).expand(shape).contiguous()


def tag_of_part(part: Tag, number: int) -> Tag:
    """The tag of a stream that is taken out of a stack again."""
    stack = None if part.stack is None else part.stack._replace(dim=None)
    return replace(part, number=number, origin=number, statistic=False, stack=stack)


def is_sum_of_streams(operation: Operation, args, kwargs) -> bool:
    """Whether a call sums, or averages, stacked streams and nothing else."""
    if operation not in (ops.SUM, ops.MEAN) or (stack := tag(args[0]).stack) is None:
        return False
    plain = not kwargs.keys() - {"dim", "axis", "keepdim"} and None not in stack.parts
    return plain and stack.dim is not None and _reduced(args, kwargs) == {stack.dim}


def sum_of_streams(operation: Operation, args, kwargs) -> Tensor:
    """The sum, or the mean, of stacked streams as additions."""
    x, (dim,) = args[0], _reduced(args, kwargs)
    total = functools.reduce(torch.add, x.unbind(dim))
    if operation is ops.MEAN:
        total = total / x.shape[dim]
    keepdim = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
    return total.unsqueeze(dim) if keepdim else total


def of_stack(operation: Operation, args, kwargs, stack: Stack) -> tuple[dict, dict]:
    """What a call on a stack, and the tag of its output, have beside what they always have."""
    dim = stack.dim
    if operation is ops.LINEAR and dim is not None and dim < -1:
        return {}, {"stack": stack}
    reduced = _reduced(args, kwargs) if operation in (ops.SUM, ops.MEAN) else set()
    if dim is None or not reduced or dim in reduced:
        return {"unclear": True}, {}
    if not kwargs.get("keepdim", args[2] if len(args) > 2 else False):
        dim += sum(r > dim for r in reduced)
    return {}, {"stack": stack._replace(dim=dim)}


def _reduced(args, kwargs) -> set[int]:
    """The dimensions, from the last, that a sum or a mean is over."""
    ndim, given = args[0].ndim, args[1] if len(args) > 1 else None
    dims = kwargs.get("dim", kwargs.get("axis", given))
    dims = (dims,) if isinstance(dims, int) else dims or range(ndim)
    return {d - ndim if d >= 0 else d for d in dims}
