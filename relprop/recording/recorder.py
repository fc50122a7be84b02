"""Records a forward pass of an unmodified model, so that relevance can walk it backwards.

While a :class:`Recorder` is active it sees every torch call of the model. Calls on the relevance
path (those with an input that depends on the pixels or embeddings) run as torch runs them, and
their output goes through :class:`~relprop.recording.graph.Recorded`, an ``autograd.Function`` with
two backwards: the gradient follows the call's own autograd graph, the relevance takes the rule's
shortcut from the output to the inputs::

                 relevance: rule
        input  <-----------------  output
           ^                         |
           +---- autograd's own <----+  gradient

So one graph serves both, and the autograd engine does the walking: residual branches, reuse of a
tensor, and stopping at the lowest attention map that is asked for.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from relprop.errors import TooLarge, UnsupportedModel
from relprop.recording import operations as ops
from relprop.recording.calls import interpret, weighing
from relprop.recording.fused import COMPOSED
from relprop.recording.graph import TENSOR, Call, Recorded
from relprop.recording.meaning import meaning_of
from relprop.recording.moves import note_moved
from relprop.recording.notes import note
from relprop.recording.operations import (
    OPERATIONS,
    OUT_OF_PLACE,
    Operation,
    writes_in_place,
)
from relprop.recording.record import Recording, Source
from relprop.recording.refusals import (
    check_batch_first,
    check_recorded,
    check_softmax,
    run_unknown,
)
from relprop.recording.stacks import is_sum_of_streams, sum_of_streams
from relprop.recording.tags import (
    IDS,
    LEARNED,
    SCORES,
    State,
    Tag,
    follow,
    known_tag,
    mapped,
    of_weights,
    on_path,
    role,
    set_tag,
    tag,
    tensors_in,
)


class _Active(threading.local):
    """The recorders of this thread, innermost last: an outer one pauses for an inner one."""

    def __init__(self) -> None:
        self.stack: list[Recorder | None] = []


class Recorder(TorchFunctionMode):
    """Context in which torch calls are recorded into ``self.recording``.

    ``largest``: bytes; TooLarge at the first tensor in a CPU's memory that has more. ``device``:
    type of the device that the inputs are on, whose autocast is turned off. ``with_weights``: the
    graph goes on to the parameters, which are constants otherwise.
    """

    _active = _Active()

    def __init__(
        self,
        batch_size: int,
        largest: int | None = None,
        device: str = "cpu",
        with_weights: bool = False,
    ) -> None:
        super().__init__()
        self._device, self._with_weights = device, with_weights
        self.recording = Recording(batch_size)
        self._largest = largest
        self._rewritten: dict[int, tuple[Tensor, Tensor]] = {}
        self._stale_storages: set[int] = set()
        self._learned: dict[int, Tensor] = {}
        self.texts: frozenset[str] = frozenset()  # names of inputs whose embedding is a source

    def __enter__(self):
        self._active.stack.append(self)
        return super().__enter__()

    def __exit__(self, *exception):
        self._active.stack.pop()
        return super().__exit__(*exception)

    @classmethod
    @contextmanager
    def paused(cls) -> Iterator[None]:
        """What is done within is no part of a recording, such as that of a model that explains."""
        cls._active.stack.append(None)
        try:
            yield
        finally:
            cls._active.stack.pop()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self._active.stack[-1] is not self:
            return function(*args, **kwargs)
        if torch.is_autocast_enabled(self._device):  # by the model itself, which ends it as well
            torch.set_autocast_enabled(self._device, False)
        args = mapped(args, self.current)
        kwargs = {k: mapped(a, self.current) for k, a in kwargs.items()}
        if not torch.is_grad_enabled():
            return function(*args, **kwargs)
        if writes_in_place(function, kwargs):
            return self._run_in_place(function, args, kwargs)
        return self._run(function, args, kwargs)

    # ------------------------------------------------------------------------------- sources

    def add_source(self, name: str, x: Tensor, kind: str | None = None, **known) -> Tensor:
        """Make ``x`` [B, ...], which is computed from no other, what relevance flows back to."""
        recording = self.recording
        recording.sources[name] = Source(x.requires_grad_(), **known)
        number = recording.next_number()
        state, names = State(number, home=(name,)), frozenset((name,))
        known_as: dict[str, Any] = {"origin": number, "state": state, "sources": names, "form": 1}
        return set_tag(x, Tag(recording.running, number, kind, **known_as))

    def mark(self, x: Tensor, kind: str, name: str) -> Tensor:
        """Note that ``x`` is ids, or a parameter, from which a source is made."""
        return set_tag(x, Tag(self.recording.running, 0, kind, sources=frozenset((name,))))

    def learn(self, name: str, parameter: Tensor) -> None:
        """Make a parameter a source, as soon as it has a row for each sample."""
        known = parameter if self._with_weights else parameter.detach()
        self._learned[id(parameter)] = self.mark(known.clone(), LEARNED, name)

    def _run_off_path(self, function, args, kwargs):
        output = self._made_of_weights(function(*args, **kwargs))
        first = next(iter((*args, *kwargs.values())), None)
        if not isinstance(first, Tensor) or role(first) not in (IDS, LEARNED):
            return output
        kind, (name,) = role(first), tag(first).sources
        if kind == IDS and function is F.embedding:
            return self._look_up(name, first, kwargs.get("weight", args[-1]), output)
        batch = self.recording.batch_size
        for x in tensors_in(output):
            is_source = kind == LEARNED and x.ndim > 2 and x.shape[0] == batch
            if is_source and name not in self.recording.sources:
                self.add_source(name, x)
            else:
                self.mark(x, kind, name)
        return output

    def _made_of_weights(self, output):
        for x in tensors_in(output):
            of_weights(x, self.recording.running)
        return output

    def _look_up(self, name: str, ids: Tensor, weight: Tensor, output: Tensor) -> Tensor:
        """The embedding of ids: a source, the same source again, or a constant (positions, types).

        In the weight of an earlier look-up other ids are a further source.
        """
        if name not in self.texts:
            return output
        where = (ids.untyped_storage().data_ptr(), ids.storage_offset(), ids.shape, ids.stride())
        known, table = self.recording.sources, weight.data_ptr()
        if name in known:
            tables = [source for source in known.values() if source.weight == table]
            if not tables:
                return output
            if (same := next((s for s in tables if s.ids == where), None)) is not None:
                return same.tensor
            name = next(n for i in itertools.count(2) if (n := f"{name}_{i}") not in known)
        batch, accepted = self.recording.batch_size, ", [batch, tokens, channels]"
        check_batch_first("ids are embedded as a tensor", output.shape, batch, accepted)
        known_as: dict[str, Any] = {"ids": where, "weight": table, "words": ids, "table": weight}
        return self.add_source(name, output, is_text=True, **known_as)

    # --------------------------------------------------------------------------------- calls

    def _run(self, function, args, kwargs):
        tensors = tensors_in(*args, *kwargs.values())
        path = [t for t in tensors if on_path(t)]
        if not path:
            return self._run_off_path(function, args, kwargs)
        own = self.recording.running
        if any(getattr(known_tag(x), "owner", None) is not own for x in path):
            if all(getattr(known_tag(x), "owner", own) is not own for x in path):
                return function(*args, **kwargs)  # of a recording within a model that explains
            check_recorded(path, own)
        if any(x.is_inference() for x in tensors):
            args = mapped(args, _as_saved)
            kwargs = {k: mapped(a, _as_saved) for k, a in kwargs.items()}
        if function in COMPOSED:
            with self:  # its parts are recorded
                return COMPOSED[function](*args, **kwargs)
        for x in path:
            self.recording.read(tag(x).number)
        if OPERATIONS.get(function) in (ops.MATMUL, ops.EINSUM):
            noted = functools.partial(self._weighing, path=path)
            args = mapped(args, noted)
            kwargs = {k: mapped(a, noted) for k, a in kwargs.items()}
        operation, rule_args, rule_kwargs = interpret(function, args, kwargs)
        if operation is None:
            return run_unknown(function, args, kwargs)
        if is_sum_of_streams(operation, rule_args, rule_kwargs):
            with self:  # as additions
                return sum_of_streams(operation, rule_args, rule_kwargs)
        output = function(*args, **kwargs)
        if operation in (ops.MOVED, ops.WINNER):
            note_moved(self.recording, function, operation, output, path, args, kwargs)
            self.recording.calls.append((function, args, kwargs, output))
            return output
        if any(output is t for t in path):  # dropout in evaluation
            return output
        if operation is ops.SOFTMAX and role(path[0]) == SCORES:
            check_softmax(*args, **kwargs)
        recorded = self._record(operation, rule_args, rule_kwargs, output)
        self.recording.calls.append((function, args, kwargs, recorded))
        return recorded

    def _weighing(self, value, path: list[Tensor]):
        """The operand of a product, noted as attention without a softmax if it is that."""
        operation = weighing(value, path)
        return value if operation is None else self._record(operation, (value,), {}, value)

    def _record(self, operation: Operation, args, kwargs, output: Tensor) -> Tensor:
        """Give ``output`` its second backward, and note what the methods need to find again."""
        if self._largest is not None and output.is_cpu and output.nbytes > self._largest:
            raise TooLarge(output.nbytes)
        recording = self.recording
        recording.widest = max(recording.widest, output.nbytes)
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        streams = [x for x in tensors if on_path(x)]
        number, block = recording.next_number(), recording.running.blocks
        known, changes = meaning_of(
            recording, operation, args, kwargs, tensors, streams, output, number
        )
        of_output = follow(number, [tag(x) for x in streams], **changes)
        call = Call(
            operation,
            tuple(TENSOR if isinstance(a, Tensor) else a for a in args),
            {k: TENSOR if isinstance(a, Tensor) else a for k, a in kwargs.items()},
            tuple(x.shape for x in tensors),
            output.shape,
            number,
            block,
            of_output.rows,
            **known,
        )
        recorded = Recorded.apply(recording.running, call, output, *tensors)
        set_tag(recorded, of_output)
        note(recording, call, args, kwargs, streams, recorded)
        return recorded

    # ------------------------------------------------------------------ in-place operations

    def _run_in_place(self, function, args, kwargs):
        """Run an in-place call on a copy; from here on the copy stands for the tensor written to.

        The recording keeps tensors that rules need later, so none may be overwritten.
        """
        path = [t for t in tensors_in(*args, *kwargs.values()) if on_path(t)]
        if not path:
            return self._made_of_weights(function(*args, **kwargs))
        target = args[0]
        if "inplace" in kwargs:
            kwargs = kwargs | {"inplace": False}
        if function is Tensor.__setitem__:
            check_recorded(path, self.recording.running)
            output, tags = target.clone(), [tag(x) for x in path]
            self.recording.read(min(t.number for t in tags))
            number, kind = self.recording.next_number(), tags[0].role
            set_tag(output, follow(number, tags, role=kind))
            function(output, *args[1:])
        else:
            output = self._run(OUT_OF_PLACE.get(function, function), args, kwargs)
        if output is not target:  # as it is after dropout in evaluation
            self._rewritten[id(target)] = (target, output)
            if not _same_memory(output, target):  # as it is after unsqueeze_
                self._stale_storages.add(target.untyped_storage().data_ptr())
        return None if function is Tensor.__setitem__ else output

    def current(self, value):
        """``value`` as a call must see it: rewritten tensors replaced, parameters told apart."""
        if not isinstance(value, Tensor):
            return value
        if value.requires_grad and value.is_leaf and known_tag(value) is None:
            known = value if self._with_weights else value.detach()
            return self._learned.get(id(value), known)
        while id(value) in self._rewritten:
            value = self._rewritten[id(value)][1]
        if self._stale_storages and value.layout == torch.strided:
            if value.untyped_storage().data_ptr() in self._stale_storages:
                raise UnsupportedModel(
                    f"a tensor of shape {list(value.shape)} is used after an in-place operation on "
                    "another view of its memory; write that operation out of place"
                )
        return value


def _as_saved(value):
    """A copy of weights, or a table, made in inference mode: autograd keeps no such tensor."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
