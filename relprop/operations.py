"""Which torch functions are which operation: the vocabulary between models and rules.

A model is a sequence of torch calls. On the relevance path each is one of

- *moved*: relevance goes where autograd sends a gradient (views, cat, indexing, dtype moves);
- *unchanged*: relevance passes as it is (softmax, norms, activations, dropout in evaluation);
- *composed*: written out in simpler operations (fused attention);
- *ruled*: an operation that a rule set (:mod:`relprop.rules`) has a rule for.

Anything else is an error that names the function; :func:`register` adds to the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop import rules as _rules

MOVED = "moved"
UNCHANGED = "unchanged"


def spellings(name: str) -> Iterator[Callable]:
    """Every torch function that a model may reach an operation by.

    ``add``: ``torch.add``, ``Tensor.add``, ``a + b``, ``a.add_(b)``, ``a += b``.
    """
    for owner in (torch, Tensor, F):
        for spelled in (name, name + "_", f"__{name}__", f"__i{name}__"):
            function = getattr(owner, spelled, None)
            if callable(function):
                yield function


_MOVED = """
    view view_as reshape reshape_as flatten unflatten transpose permute movedim moveaxis swapaxes
    swapdims t squeeze unsqueeze expand expand_as broadcast_to cat concat concatenate stack split
    chunk unbind tensor_split getitem setitem select narrow index_select gather take_along_dim
    roll flip rot90 repeat tile repeat_interleave clone contiguous to type_as float double half
    bfloat16 type cuda cpu pad where masked_fill masked_select detach diagonal pixel_shuffle
    pixel_unshuffle unfold adjoint requires_grad
"""
_UNCHANGED = "softmax log_softmax layer_norm rms_norm group_norm batch_norm normalize"
_UNCHANGED_ELEMENTWISE = """
    gelu relu relu6 silu elu celu selu leaky_relu hardswish hardtanh hardsigmoid mish softplus
    logsigmoid tanh sigmoid erf pow neg clamp clip dropout dropout1d dropout2d alpha_dropout
    feature_dropout
"""
_RULED = {
    "linear": "linear",
    "conv2d": "patch_embedding",
    "add": "add",
    "radd": "add",
    "sub": "sub",
    "rsub": "rsub",
    "mul": "mul",
    "rmul": "mul",
    "multiply": "mul",
    "div": "div",
    "truediv": "div",
    "divide": "div",
    "matmul": "matmul",
    "bmm": "matmul",
    "einsum": "einsum",
    "mean": "mean",
    "sum": "sum",
}
OPERATIONS: dict[Callable, str] = {
    function: operation
    for names, operation in (
        *((name, MOVED) for name in _MOVED.split()),
        *((name, UNCHANGED) for name in (_UNCHANGED + _UNCHANGED_ELEMENTWISE).split()),
        *_RULED.items(),
    )
    for function in spellings(names)
}
"""The operation of each torch function."""
BUILT_IN = frozenset(OPERATIONS)

ELEMENTWISE = {
    function
    for name in (*_UNCHANGED_ELEMENTWISE.split(), *"add radd sub rsub mul rmul div truediv".split())
    for function in spellings(name)
}
"""Functions whose output, where relevance passes unchanged, is elementwise in their input."""


def register(function: Callable, rule: str | _rules.Rule) -> None:
    """Teach the engine an operation it does not know.

    ``rule`` is ``"unchanged"`` (relevance passes as it is), ``"moved"`` (as a gradient moves), or
    a rule like those in :mod:`relprop.rules`, ``(relevance, output, *args, eps, **kwargs)`` ->
    relevance of the tensor arguments, in their order. Both rule sets get it.

    >>> import relprop, torch
    >>> relprop.register(torch.special.erf, "unchanged")
    >>> relprop.register(torch.cumsum, relprop.rules.proportional(torch.cumsum))
    """
    if function in BUILT_IN:
        known, why = OPERATIONS[function], "relevance passes so under every rule set"
        if known in _RULED.values():
            why = "another rule for it goes into a rule set, the option rules="
        raise ValueError(f"{_name(function)} is known to the engine, as {known!r}: {why}")
    if isinstance(rule, str):
        if rule not in (MOVED, UNCHANGED):
            raise ValueError(f"rule is {rule!r}; accepted: 'moved', 'unchanged' or a function")
        OPERATIONS[function] = rule
        return
    OPERATIONS[function] = _name(function)
    for rules in _rules.RULE_SETS.values():
        rules[_name(function)] = rule


def _name(function: Callable) -> str:
    return torch.overrides.resolve_name(function) or repr(function)


# ------------------------------------------------------------- reading a call of a model

SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax)

# What a tensor is, where a rule or an attention map depends on it. Views and elementwise operations
# keep the role of their input.
PIXELS = "pixels"  # of whatever shape: numbers that relevance flows back to
PICTURE = "picture"  # pixels [B, C, H, W]
IDS = "ids"
SCORES = "attention scores"
ATTENTION = "attention"


def role(x: Tensor) -> str | None:
    return getattr(x, "_relprop_role", None)


def set_role(x: Tensor, value: str | None) -> Tensor:
    x._relprop_role = value
    return x


def is_recorded(x: Tensor) -> bool:
    """Whether ``x`` came out of a call that the recorder saw: each such tensor has a role."""
    return hasattr(x, "_relprop_role")


def set_origin(x: Tensor, origin: Tensor) -> None:
    """Note that ``x`` is an elementwise function of ``origin``, and of what that is one of."""
    x._relprop_origin = _origin(origin)


def _origin(x: Tensor) -> Tensor:
    return getattr(x, "_relprop_origin", x)


def common_origin(streams: list[Tensor]) -> Tensor | None:
    """The one tensor that all are elementwise functions of: x of x * sigmoid(x)."""
    origins = [_origin(x) for x in streams]
    return origins[0] if all(origin is origins[0] for origin in origins) else None


def height(x: Tensor) -> int:
    """Attention maps that ``x`` depends on, each of which depends on the one before."""
    return getattr(x, "_relprop_height", 0)


def set_height(x: Tensor, value: int) -> None:
    x._relprop_height = value


def whole(x: Tensor) -> Tensor:
    """The tokens that ``x`` is another form of: normalised, scaled, or with dimensions moved."""
    return getattr(x, "_relprop_whole", x)


def set_whole(x: Tensor, form_of: Tensor) -> None:
    x._relprop_whole = whole(form_of)


def on_path(x) -> bool:
    """Whether relevance can reach ``x``: it depends on the pixels or embeddings."""
    return isinstance(x, Tensor) and x.requires_grad


def tensors_in(*values) -> list[Tensor]:
    """The tensors among arguments and in lists of them (``torch.cat``)."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found.extend(tensors_in(*value))
    return found


# Tensors that a call may name, in the order in which rules return their relevance.
_NAMED = {
    "linear": (("input",), ("weight",), ("bias",)),
    "patch_embedding": (("input",), ("weight",), ("bias",)),
    "mean": (("input",),),
    "sum": (("input",),),
}
_NAMED |= {
    operation: (("input",), ("other", "mat2"))
    for operation in ("add", "sub", "rsub", "mul", "div", "matmul")
}


def _in_order(operation: str, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The call with its tensors by position: ``mul(input=a, other=b)`` as ``mul(a, b)``."""
    kwargs = dict(kwargs)
    for names in _NAMED.get(operation, ())[len(args) :]:
        name = next((name for name in names if name in kwargs), None)
        if name is None:
            break
        args = (*args, kwargs.pop(name))
    return args, kwargs


def interpret(function, args, kwargs):
    """The operation that a call is, and its arguments as the operation's rule takes them.

    None where the vocabulary has no such operation.
    """
    operation = MOVED if function.__name__ == "__get__" else OPERATIONS.get(function)
    if operation in _NAMED:
        args, kwargs = _in_order(operation, args, kwargs)
        if any(on_path(x) for x in kwargs.values()):
            return None, args, kwargs  # under a name that no rule knows
    if operation == "einsum" and isinstance(args[1], (tuple, list)):
        args = (args[0], *args[1])
    streams = [a for a in tensors_in(*args, *kwargs.values()) if on_path(a)]
    if operation in ("add", "sub", "rsub"):
        kept = role(streams[0]) in (SCORES, PICTURE)  # an attention mask, the mean of all pictures
        if len(streams) == 1 and (kept or _is_bias(args, kwargs)):
            operation = UNCHANGED
        elif operation == "sub":
            operation, kwargs = "add", {**kwargs, "alpha": -kwargs.get("alpha", 1)}
        elif operation == "rsub":
            operation = None
    elif operation == "mul" and len(streams) == 1:
        operation = UNCHANGED  # 1/sqrt(d), LayerScale
    elif operation == "div":
        operation = UNCHANGED if len(streams) == 1 and on_path(args[0]) else None
    elif operation == "matmul" and len(streams) == 1:
        operation = None
        if on_path(args[0]) and args[1].ndim == 2:  # x @ W is a linear layer written by hand
            operation, args = "linear", (args[0], args[1].mT)
    elif operation == "einsum" and len(streams) == 1:
        operation = None
    elif operation in ("linear", "patch_embedding") and not _is_one_layer(operation, args, streams):
        operation = None
    if operation == "linear" and role(args[0]) == PICTURE:
        operation = "patch_embedding"  # of patches that were cut by reshaping
    return operation, args, kwargs


def _is_one_layer(operation: str, args, streams) -> bool:
    """Whether a layer's weights are constants, and a convolution's input pixels."""
    of_pixels = operation == "linear" or role(args[0]) in (PIXELS, PICTURE)
    return len(streams) == 1 and on_path(args[0]) and of_pixels


def _is_bias(args, kwargs) -> bool:
    """Whether a sum's constant is a number or a vector over channels, not a stream of tokens."""
    constants = [a for a in (*args, *kwargs.values()) if not on_path(a)]
    return all(not isinstance(a, Tensor) or a.ndim < 2 or a.numel() == 1 for a in constants)


def _out_of_place() -> dict:
    """``Tensor.add_`` -> ``Tensor.add`` and so on; ``a += b`` reaches torch as ``a.add_(b)``."""
    return {
        getattr(owner, name): getattr(owner, name[:-1])
        for owner in (torch, Tensor, F)
        for name in dir(owner)
        if name.endswith("_")
        and not name.startswith("_")
        and callable(getattr(owner, name[:-1], None))
    }


OUT_OF_PLACE = _out_of_place()


def writes_in_place(function, kwargs) -> bool:
    return function in OUT_OF_PLACE or function is Tensor.__setitem__ or bool(kwargs.get("inplace"))
