"""What a call of a torch function is: the operation, and its arguments as rules take them."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from relprop.recording import operations as ops
from relprop.recording.operations import OPERATIONS, Operation
from relprop.recording.tags import (
    EXPONENTIAL,
    PICTURE,
    PIXELS,
    SCORES,
    of_weights,
    on_path,
    role,
    tag,
    tensors_in,
)

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Reading = tuple[Operation | None, Args, Kwargs]


def interpret(function: Callable, args: Args, kwargs: Kwargs) -> Reading:
    """The operation that a call is, and its arguments as the operation's rule takes them.

    None where the vocabulary has no such operation.
    """
    if function.__name__ == "__get__":  # x.mT
        return ops.MOVED, args, kwargs
    operation = OPERATIONS.get(function)
    if operation is None:
        return None, args, kwargs
    if operation is ops.MOVED:
        return (None if _adds(args, kwargs) else operation), args, kwargs
    args, kwargs = _in_order(operation, args, kwargs)
    if operation.tensors and any(on_path(x) for x in kwargs.values()):
        return None, args, kwargs  # under a name that no rule knows
    if operation.unchanged and (found := _unchanged(operation, args, kwargs)) is not None:
        return found
    reader = READERS.get(operation.name)
    return (operation, args, kwargs) if reader is None else reader(operation, args, kwargs)


def _adds(args: Args, kwargs: Kwargs) -> bool:
    """Whether what is put in the place of other numbers is added to them, or multiplied."""
    accumulates = kwargs.get("accumulate", len(args) == 4 and args[3] is True)  # index_put
    return bool(accumulates) or kwargs.get("reduce") is not None


def _in_order(operation: Operation, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
    """The call with its tensors by position: ``mul(input=a, other=b)`` as ``mul(a, b)``."""
    kwargs = dict(kwargs)
    for names in operation.tensors[len(args) :]:
        name = next((name for name in names if name in kwargs), None)
        if name is None:
            break
        args = (*args, kwargs.pop(name))
    return args, kwargs


def _bound(names: str, args: Args, kwargs: Kwargs) -> list[Any]:
    """The arguments of these names, None where they are not given."""
    given = dict(zip(names.split(), args, strict=False)) | kwargs
    return [given.get(name) for name in names.split()]


def _streams(args: Args, kwargs: Kwargs) -> list[Tensor]:
    return [x for x in tensors_in(*args, *kwargs.values()) if on_path(x)]


def _of_itself(operation: Operation, streams: list[Tensor], args: Args) -> Reading | None:
    """A call on several elementwise functions of one tensor x is one, too.

    Relevance passes to the stream that is a multiple of x. Of x * s and x / s, s being a statistic
    of x (a mean, a norm), also the gradient of AttnLRP has a rule of its own.
    """
    tags = [tag(x) for x in streams]
    if len(streams) < 2 or len({t.origin for t in tags}) > 1:
        return None
    places = range(len(tags))
    of_x = min(places, key=lambda i: (tags[i].statistic, tags[i].number != tags[i].origin))
    statistic = next((i for i, t in enumerate(tags) if t.statistic), None)
    if statistic is None or statistic == of_x:
        return ops.ACTIVATION, (streams[of_x],), {}
    if operation.name in ("mul", "div"):
        if operation.name == "div" and of_x != 0:
            return None
        return ops.STANDARDISED, (streams[of_x], streams[statistic], operation.name == "div"), {}
    return ops.CENTRED, (streams[of_x],), {}


def _by_its_norm(operation: Operation, streams: list[Tensor], args: Args) -> Reading | None:
    """x * s or x / s, s being made of norms of x over tokens alone: a global response norm."""
    divides = operation.name == "div"
    for x, s in (streams, streams[::-1]):
        if tag(s).norm_of == tag(x).number and (not divides or x is args[0]):
            return ops.NORMALISED, (x, s, divides), {}
    return None


def _unchanged(operation: Operation, args: Args, kwargs: Kwargs) -> Reading | None:
    """A call that passes relevance to its first tensor, where that is not the only stream.

    ``2 ** x`` is a function of its other tensor. Of two streams, as ``x ** y``, none is a constant.
    """
    streams = _streams(args, kwargs)
    if len(streams) == 1:
        is_first = not args or on_path(args[0])
        return None if is_first or not operation.elementwise else (operation, (streams[0],), {})
    itself = _of_itself(operation, streams, args) if operation.elementwise else None
    return itself if itself is not None else (None, args, kwargs)


def _sum(operation: Operation, args: Args, kwargs: Kwargs) -> Reading:
    streams = _streams(args, kwargs)
    if (itself := _of_itself(operation, streams, args)) is not None:
        return itself
    if len(streams) == 1:
        kept = role(streams[0]) in (SCORES, PICTURE)  # an attention mask, the mean of all pixels
        constants = [x for x in (*args, *kwargs.values()) if not on_path(x)]
        # A number or a vector over channels, not a stream of tokens.
        is_bias = all(not isinstance(x, Tensor) or x.ndim < 2 or x.numel() == 1 for x in constants)
        if kept or is_bias:
            return ops.SHIFTED, (streams[0],), {}
    if operation.name == "rsub":
        args, operation = (args[1], args[0], *args[2:]), ops.OPERATIONS[torch.sub]
    if operation.name == "sub":
        kwargs = {**kwargs, "alpha": -kwargs.get("alpha", 1)}
    return ops.ADD, args, kwargs


def _product(operation: Operation, args: Args, kwargs: Kwargs) -> Reading:
    streams = _streams(args, kwargs)
    if len(streams) == 1:
        return ops.SCALED, (streams[0],), {}
    if (itself := _of_itself(operation, streams, args)) is not None:
        return itself
    if (normalised := _by_its_norm(operation, streams, args)) is not None:
        return normalised
    activated = [not tag(x).multiple for x in streams]
    if activated == [True, False]:
        return ops.GATE, (streams[1], streams[0]), {}
    return (ops.GATE if activated == [False, True] else ops.MUL), args, kwargs


def _quotient(operation: Operation, args: Args, kwargs: Kwargs) -> Reading:
    if operation.name == "rdiv":
        args, operation = (args[1], args[0], *args[2:]), ops.OPERATIONS[torch.div]
    streams = _streams(args, kwargs)
    if len(streams) == 1:
        # 1 / x is an elementwise function of x; of tokens it is no form of them.
        return (ops.SCALED if on_path(args[0]) else ops.ACTIVATION), (streams[0],), {}
    if _is_softmax(streams, args):
        return ops.SOFTMAX, tuple(streams), {}
    for found in (_of_itself, _by_its_norm):
        if (reading := found(operation, streams, args)) is not None:
            return reading
    if tag(streams[0]).norm_of == tag(streams[1]).norm_of >= 0:  # norms by their mean
        return ops.STATISTIC, tuple(streams), {}
    return None, args, kwargs


def _is_softmax(streams: list[Tensor], args: Args) -> bool:
    """Whether a quotient is exp(scores) / sum(exp(scores))."""
    tags = [tag(x) for x in streams]
    return (
        len({t.origin for t in tags}) == 1
        and all(t.role == EXPONENTIAL for t in tags)
        and [t.statistic for t in tags] == [False, True]
        and args[0] is streams[0]
    )


def weighing(x: Any, streams: list[Tensor]) -> Operation | None:
    """What scores are in a product with values; None of anything else.

    After a softmax they are an attention map, and have its rule.
    """
    if not on_path(x) or role(x) not in (SCORES, EXPONENTIAL):
        return None
    if all(role(other) in (SCORES, EXPONENTIAL) for other in streams):
        return None
    if role(x) == EXPONENTIAL:
        return ops.EXPONENTIAL_WEIGHING
    return ops.LINEAR_WEIGHING if tag(x).multiple else ops.WEIGHING


def _winner(operation: Operation, args: Args, kwargs: Kwargs) -> Reading:
    """The greater of a stream and a constant is an activation, such as max(x, 0)."""
    constants = [x for x in tensors_in(*args, *kwargs.values()) if not on_path(x)]
    (x, *others), shapes = _streams(args, kwargs), [c.shape for c in constants]
    if constants and not others and torch.broadcast_shapes(x.shape, *shapes) == x.shape:
        return ops.ACTIVATION, (x,), {}
    return operation, args, kwargs


def _matmul(operation: Operation, args: Args, kwargs: Kwargs) -> Reading:
    if len(_streams(args, kwargs)) == 2:
        return operation, args, kwargs
    first, second = args[:2]
    if on_path(first) and second.ndim == 2:  # x @ W is a linear layer written by hand
        return _layer(ops.LINEAR, (first, of_weights(second.mT, tag(first).owner)), {})
    if on_path(first):
        return ops.EACH, (first, lambda x: x @ second), {}
    return ops.PRODUCT, (second, lambda x: first @ x), {}


def _einsum(operation: Operation, args: Args, kwargs: Kwargs) -> Reading:
    if isinstance(args[1], (tuple, list)):
        args = (args[0], *args[1])
    if len(_streams(args, kwargs)) > 1:
        return operation, (_without_ellipses(*args), *args[1:]), kwargs
    place = next(i for i, x in enumerate(args) if on_path(x))
    before, after = args[:place], args[place + 1 :]
    return ops.PRODUCT, (args[place], lambda x: torch.einsum(*before, x, *after)), {}


def _without_ellipses(equation: str, *tensors: Tensor) -> str:
    """An equation of einsum, with letters for the dimensions that ``...`` stands for."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    if "..." not in inputs or not arrow:
        return equation
    given = inputs.replace("...", ".").split(",")
    counts = [x.ndim - len(part) + 1 for x, part in zip(tensors, given, strict=True)]
    letters = [x for x in string.ascii_letters if x not in equation]
    most = max(count for count, part in zip(counts, given, strict=True) if "." in part)
    each = ["".join(letters[most - count : most]) for count in counts]
    named = [part.replace(".", own) for part, own in zip(given, each, strict=True)]
    return ",".join(named) + arrow + output.replace("...", "".join(letters[:most]))


def _addmm(operation: Operation, args: Args, kwargs: Kwargs) -> Reading:
    bias, x, weight = args[:3]
    scaled = kwargs.get("alpha", 1) != 1 or kwargs.get("beta", 1) != 1 or len(args) > 3
    if scaled or not on_path(x) or len(_streams(args, kwargs)) > 1:
        return None, args, kwargs
    return _layer(ops.LINEAR, (x, of_weights(weight.mT, tag(x).owner), bias), {})


def _layer(operation: Operation, args: Args, kwargs: Kwargs) -> Reading:
    """A linear layer or a convolution, whose weights are constants."""
    if len(_streams(args, kwargs)) != 1 or not on_path(args[0]):
        return None, args, kwargs
    kind = role(args[0])
    # A linear layer on a picture is on patches that were cut by reshaping.
    if kind == PICTURE or kind == PIXELS and operation is ops.CONV:
        operation = ops.PATCH_EMBEDDING
    return operation, args, kwargs


def _batch_norm(operation: Operation, args: Args, kwargs: Kwargs) -> Reading:
    x, mean, var, weight, _, training, _, eps = _bound(
        "input running_mean running_var weight bias training momentum eps", args, kwargs
    )
    if training or mean is None:
        return None, args, kwargs
    if role(x) == PICTURE:
        return ops.SHIFTED, (x,), {}
    scale = torch.rsqrt(var + (1e-5 if eps is None else eps))
    scale = scale if weight is None else of_weights(scale * weight, tag(x).owner)
    return operation, (x, scale), {}


def _layer_norm(operation: Operation, args: Args, kwargs: Kwargs) -> Reading:
    names = "input normalized_shape weight eps"
    if operation.name == "layer_norm":
        names = "input normalized_shape weight bias eps"
    x, shape, weight, *_, eps = _bound(names, args, kwargs)
    if eps is None and operation.name == "layer_norm":
        eps = 1e-5
    return operation, (x, weight, len(shape), eps), {}


def _group_norm(operation: Operation, args: Args, kwargs: Kwargs) -> Reading:
    x, groups, weight, _, eps = _bound("input num_groups weight bias eps", args, kwargs)
    return operation, (x, weight, groups, 1e-5 if eps is None else eps), {}


def _normalize(operation: Operation, args: Args, kwargs: Kwargs) -> Reading:
    x, p, dim, eps = _bound("input p dim eps", args, kwargs)
    given = (2.0 if p is None else p, 1 if dim is None else dim, 1e-12 if eps is None else eps)
    return operation, (x, *given), {}


READERS: dict[str, Callable[[Operation, Args, Kwargs], Reading]] = {
    **dict.fromkeys(("add", "sub", "rsub"), _sum),
    **dict.fromkeys(("linear", "conv"), _layer),
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    "mul": _product,
    "winner": _winner,
    **dict.fromkeys(("div", "rdiv"), _quotient),
    "matmul": _matmul,
    "einsum": _einsum,
    "addmm": _addmm,
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "normalize": _normalize,
}
