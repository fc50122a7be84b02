"""Which torch functions are which operation: the vocabulary between models and rules.

A model is a sequence of torch calls. On the relevance path each is one of

- *moved*: relevance goes where autograd sends a gradient (views, cat, indexing, dtype moves);
- *unchanged*: relevance passes as it is (softmax, norms, activations, dropout in evaluation);
- *composed*: written out in simpler operations (:mod:`relprop.recording.fused`);
- *ruled*: an operation that a rule set (:mod:`relprop.rules`) has a rule for.

Anything else is an error that names the function; :func:`register` adds to the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.rules.linear import Rule
from relprop.rules.relevance import epsilon_of, statistic, whole


@dataclass(frozen=True, eq=False)
class Operation:
    """What is known of an operation.

    Attributes:
        name: under which rule sets know it.
        spelled: names of its functions in torch, torch.Tensor and torch.nn.functional.
        tensors: names of its tensors, in the order in which rules return their relevance.
        rule: for the relevance of rule sets that have none of their own; None: they need one.
        function: of which it is known that it is linear in its first tensor.
        unchanged: relevance passes as it is.
        elementwise: each number of its output depends on that number of its first tensor alone.
        scales: elementwise, and a multiple of its input.
        known_as: name under which rule sets know it if they do not by its own.
        keeps: what its rules need of a call: "nothing", its "inputs", "all", the output
            too, or "recompute", the inputs to compute the output again.
        mixes: tokens may be mixed, so that the output is not token by token.
        registered: a user has taught it, with a rule that holds under every rule set.
    """

    name: str
    spelled: str = ""
    tensors: tuple[tuple[str, ...], ...] = ()
    rule: Rule | None = None
    function: Callable | None = None
    unchanged: bool = False
    elementwise: bool = False
    scales: bool = False
    keeps: str = "all"
    known_as: str = ""
    mixes: bool = False
    registered: bool = False


_TWO = (("input", "self"), ("other", "mat2"))
_LAYER = (("input",), ("weight",), ("bias",))
_FIRST = (("input", "self"),)

MOVED = Operation(
    "moved",
    """view view_as reshape reshape_as flatten unflatten transpose permute movedim moveaxis swapaxes
    swapdims t squeeze unsqueeze expand expand_as broadcast_to cat concat concatenate stack hstack
    vstack split chunk unbind tensor_split getitem setitem select narrow index_select gather
    take_along_dim roll flip rot90 repeat tile repeat_interleave clone contiguous to type_as float
    double half bfloat16 type cuda cpu pad where masked_fill masked_select detach diagonal scatter
    masked_scatter index_copy index_put select_scatter slice_scatter diagonal_scatter index_fill
    pixel_shuffle pixel_unshuffle channel_shuffle unfold adjoint requires_grad tril triu""",
)
WINNER = Operation(  # takes all
    "winner",
    """max amax maximum min amin minimum max_pool1d max_pool2d max_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d""",
    mixes=True,
)
SOFTMAX = Operation("softmax", "softmax log_softmax", unchanged=True, keeps="nothing")
ACTIVATION = Operation(
    "activation",
    """gelu relu relu6 silu elu celu selu leaky_relu prelu hardswish hardtanh hardsigmoid mish
    softplus logsigmoid tanh sigmoid erf pow rpow clamp clip clamp_min clamp_max rsqrt sqrt log
    log1p expm1 reciprocal abs square""",
    unchanged=True,
    elementwise=True,
)
EXP = Operation("exp", "exp", unchanged=True, elementwise=True, known_as="activation")
SCALED = Operation(  # 1/sqrt(d), LayerScale
    "scaled",
    "neg dropout dropout1d dropout2d alpha_dropout feature_dropout",
    unchanged=True,
    elementwise=True,
    scales=True,
    keeps="nothing",
)
SHIFTED = Operation("shifted", unchanged=True, elementwise=True, keeps="nothing")  # a bias, a mask
# x of x * rsqrt(mean(x^2)): relevance of all that is made of x passes to the x itself.
STANDARDISED = Operation("standardised", unchanged=True, elementwise=True, scales=True)
# The same where the norm is over tokens: they are mixed, but by a factor alone.
NORMALISED = Operation("normalised", unchanged=True, known_as="standardised")
CENTRED = Operation("centred", unchanged=True, elementwise=True, scales=True, keeps="nothing")
STATISTIC = Operation("statistic", "var std norm", _FIRST, rule=statistic)
PATCH_EMBEDDING = Operation("patch_embedding", tensors=_LAYER)
LINEAR = Operation("linear", "linear", _LAYER)
CONV = Operation("conv", "conv1d conv2d conv3d", _LAYER, mixes=True)
ADD = Operation("add", "add radd", _TWO)
MUL = Operation("mul", "mul rmul multiply", _TWO)
GATE = Operation("gate", known_as="mul")  # value * activation(...)
# Of a product Q K^T is as large as the attention, and cheap to compute again.
MATMUL = Operation("matmul", "matmul bmm", _TWO, keeps="recompute")
EINSUM = Operation("einsum", "einsum", mixes=True)
PRODUCT = Operation("product", rule=whole, mixes=True)  # of a stream and a constant
EACH = Operation("product", rule=whole)  # x K: of each token's channels and a constant


def _weighing(name: str, known_as: str = "") -> Operation:
    return Operation(
        name, unchanged=True, elementwise=True, scales=True, keeps="nothing", known_as=known_as
    )


# Scores without a softmax, as they are multiplied with values: out of an activation; out of an
# exponential that is no softmax by hand; and as they are, in linear attention.
WEIGHING = _weighing("weighing")
EXPONENTIAL_WEIGHING = _weighing("exponential_weighing", known_as="weighing")
LINEAR_WEIGHING = _weighing("linear_weighing")
OF_CHANNELS = (PATCH_EMBEDDING, LINEAR, CONV)  # mix the channels of each token
_SUB = Operation("sub", "sub subtract", _TWO)
_RSUB = Operation("rsub", "rsub", _TWO)
_DIV = Operation("div", "div truediv divide true_divide", _TWO)
_RDIV = Operation("rdiv", "rdiv rtruediv", _TWO)
_ADDMM = Operation("addmm", "addmm", (("input",), ("mat1",), ("mat2",)))


def _linear_map(name: str) -> Operation:
    function = getattr(torch, name, None) or getattr(F, name)
    rule = epsilon_of(function)
    return Operation(name, name, _FIRST, rule, function, mixes=True)


MEAN, SUM = _linear_map("mean"), _linear_map("sum")
_NORMS = ("layer_norm", "rms_norm", "group_norm", "normalize")
_POOLED = """
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    interpolate upsample fold
"""
VOCABULARY = (
    *(MOVED, WINNER, SOFTMAX, ACTIVATION, EXP, SCALED, STATISTIC, LINEAR, CONV, ADD, MUL, MATMUL),
    *(EINSUM, _SUB, _RSUB, _DIV, _RDIV, _ADDMM, MEAN, SUM),
    *(Operation(name, name, _LAYER, unchanged=True, keeps="inputs") for name in _NORMS),
    *(_linear_map(name) for name in _POOLED.split()),
    Operation("batch_norm", "batch_norm", _FIRST, elementwise=True),
)


def spellings(name: str) -> Iterator[Callable]:
    """Every torch function that a model may reach an operation by.

    ``add``: ``torch.add``, ``Tensor.add``, ``a + b``, ``a.add_(b)``, ``a += b``.
    """
    for owner in (torch, Tensor, F):
        for spelled in (name, name + "_", f"__{name}__", f"__i{name}__"):
            function = getattr(owner, spelled, None)
            if callable(function):
                yield function


OPERATIONS: dict[Callable, Operation] = {
    function: operation
    for operation in VOCABULARY
    for name in operation.spelled.split()
    for function in spellings(name)
} | {torch.linalg.vector_norm: STATISTIC, torch.linalg.norm: STATISTIC}
"""The operation of each torch function."""
BUILT_IN = frozenset(OPERATIONS)


def _all_spellings(names: str) -> frozenset[Callable]:
    return frozenset(function for name in names.split() for function in spellings(name))


# Moves that change no number's place, those that keep the order of numbers, and those that make one
# sequence of several.
SAME_NUMBERS = _all_spellings("clone contiguous to type_as float double half bfloat16 type")
SAME_PLACES = SAME_NUMBERS | _all_spellings("masked_fill where")
RESHAPES = _all_spellings("view view_as reshape reshape_as flatten unflatten squeeze unsqueeze")
PUTS = _all_spellings("masked_scatter scatter index_copy index_put")  # also of other samples
JOINS = _all_spellings("cat concat concatenate")
STACKS = _all_spellings("stack")


def register(function: Callable, rule: str | Rule, *, elementwise: bool = False) -> None:
    """Teach the engine an operation it does not know.

    All rule sets get it, those that were made before as well.

    Args:
        function: a function of torch.
        rule: ``"unchanged"`` (elementwise: relevance passes as it is), ``"moved"`` (as a gradient
            moves), or a rule like those in :mod:`relprop.rules`, ``(relevance, output, *args, eps,
            **kwargs)`` -> relevance of the tensor arguments, in their order.
        elementwise: each number of the output depends on that number of the first tensor alone.
            Methods that multiply attention maps refuse an operation with a rule that is not: it
            may mix tokens.

    Raises:
        ValueError: the engine knows the function, or the rule is none.

    >>> import relprop, torch
    >>> relprop.register(torch.special.erf, "unchanged")
    >>> relprop.register(torch.cumsum, relprop.rules.epsilon_of(torch.cumsum))
    """
    name = torch.overrides.resolve_name(function) or repr(function)
    if function in BUILT_IN:
        known, why = OPERATIONS[function], "relevance passes so under every rule set"
        if not known.unchanged and known is not MOVED:
            why = "another rule for it goes into a rule set, the option rules="
        known_as = "unchanged" if known.unchanged else known.name
        raise ValueError(f"{name} is known to the engine, as {known_as!r}: {why}")
    if isinstance(rule, str):
        if rule not in ("moved", "unchanged"):
            raise ValueError(f"rule is {rule!r}; accepted: 'moved', 'unchanged' or a function")
        known = Operation(name, unchanged=True, elementwise=True, known_as=ACTIVATION.name)
        OPERATIONS[function] = MOVED if rule == "moved" else known
        return
    OPERATIONS[function] = Operation(
        name, rule=rule, elementwise=elementwise, mixes=not elementwise, registered=True
    )


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
