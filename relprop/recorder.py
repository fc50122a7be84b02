"""Records a forward pass of an unmodified model, so that relevance can walk it backwards.

While a :class:`Recorder` is active it sees every torch call of the model. Calls on the relevance
path (those with an input that depends on the pixels or embeddings) run as torch runs them, and
their output goes through :class:`~relprop.backward.Recorded`, an ``autograd.Function`` with two
backwards: the gradient follows the call's own autograd graph, the relevance takes the rule's
shortcut from the output to the inputs::

                 relevance: rule
        input  <-----------------  output
           ^                         |
           +---- autograd's own <----+  gradient

So one graph serves both, and the autograd engine does the walking: residual branches, reuse of a
tensor, and stopping at the lowest attention map that is asked for.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from relprop.attention import COMPOSED
from relprop.backward import TENSOR, Backward, Recorded
from relprop.checks import (
    check_attention,
    check_batch_first,
    check_block,
    check_one_pass,
    check_recorded,
    check_softmax,
    run_unknown,
)
from relprop.errors import TooLarge, UnsupportedModel
from relprop.operations import (
    ATTENTION,
    ELEMENTWISE,
    IDS,
    MOVED,
    OUT_OF_PLACE,
    SCORES,
    SOFTMAX,
    UNCHANGED,
    common_origin,
    height,
    interpret,
    is_recorded,
    on_path,
    role,
    set_height,
    set_origin,
    set_role,
    set_whole,
    tensors_in,
    whole,
    writes_in_place,
)


@dataclass
class Recording:
    """What a recorder saw."""

    batch_size: int
    backward: Backward = field(default_factory=Backward)
    attention: list[Tensor] = field(default_factory=list)  # [B, H, N, N] a block, or [B*H, N, N]
    stream: Tensor | None = None  # [B, N, D]: tokens after the last block
    source: Tensor | None = None  # pixels [B, C, H, W] or embeddings [B, N, D]
    grid: tuple[int, int] | None = None  # patches: rows, columns
    patches: Tensor | None = None  # [B, D, rows, columns], until it is known where they went
    values: Tensor | None = None  # V of the first block, [B, H, N, d] or [B*H, N, d]


class _Active(threading.local):
    """The recorders of this thread, innermost last: an outer one pauses for an inner one."""

    def __init__(self) -> None:
        self.stack: list[Recorder] = []


class Recorder(TorchFunctionMode):
    """Context in which torch calls are recorded into ``self.recording``.

    ``largest``: bytes; TooLarge at the first tensor in a CPU's memory that has more. ``device``:
    type of the device that the inputs are on, whose autocast is turned off.
    """

    _active = _Active()

    def __init__(self, batch_size: int, largest: int | None = None, device: str = "cpu") -> None:
        super().__init__()
        self._device = device
        self.recording = Recording(batch_size)
        self._largest = largest
        self._embedded = False
        self._rewritten: dict[int, tuple[Tensor, Tensor]] = {}
        self._stale_storages: set[int] = set()

    def __enter__(self):
        self._active.stack.append(self)
        return super().__enter__()

    def __exit__(self, *exception):
        self._active.stack.pop()
        return super().__exit__(*exception)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self._active.stack[-1] is not self:
            return function(*args, **kwargs)
        if torch.is_autocast_enabled(self._device):  # by the model itself, which ends it as well
            torch.set_autocast_enabled(self._device, False)
        args = tuple(self.current(a) for a in args)
        kwargs = {k: self.current(a) for k, a in kwargs.items()}
        if not torch.is_grad_enabled():
            return function(*args, **kwargs)
        if writes_in_place(function, kwargs):
            return self._run_in_place(function, args, kwargs)
        return self._run(function, args, kwargs)

    def _run(self, function, args, kwargs):
        path = [t for t in tensors_in(*args, *kwargs.values()) if on_path(t)]
        if not path:
            return self._run_off_path(function, args, kwargs)
        check_recorded(path)
        if function in COMPOSED:
            with self:  # its parts are recorded
                return COMPOSED[function](*args, **kwargs)
        operation, rule_args, rule_kwargs = interpret(function, args, kwargs)
        if operation is None:
            return run_unknown(function, args, kwargs)
        output = function(*args, **kwargs)
        if operation == MOVED:
            for moved in tensors_in(output):
                set_role(moved, role(path[0]))
                self._follow(moved, path, all_of_it=moved.numel() == path[0].numel())
            return output
        if operation in ("add", "mul") and (x := common_origin(path)) is not None and len(path) > 1:
            operation, path = UNCHANGED, [x]  # an activation written out by hand
        recorded = self._record(operation, rule_args, rule_kwargs, output, path)
        if operation == UNCHANGED and function in ELEMENTWISE and recorded is not path[0]:
            set_origin(recorded, path[0])
        if function in SOFTMAX and role(path[0]) == SCORES:
            check_softmax(*args, **kwargs)
            set_role(recorded, ATTENTION)
        return recorded

    def _run_off_path(self, function, args, kwargs):
        output = function(*args, **kwargs)
        if function is F.embedding and self.recording.source is None and role(args[0]) == IDS:
            # The first look-up of the model's ids. Later ones (positions, types) are constants.
            self.recording.source = set_role(output.requires_grad_(), None)
        elif args and isinstance(args[0], Tensor) and role(args[0]) == IDS:
            if function is F.embedding and self.recording.attention:
                check_one_pass(output, self.recording.source)
            for moved in tensors_in(output):
                set_role(moved, IDS)
        return output

    def _record(self, operation, args, kwargs, output, path) -> Tensor:
        """Give ``output`` its second backward, and note what the methods need to find again."""
        if any(output is t for t in path):  # dropout in evaluation
            return output
        if self._largest is not None and output.is_cpu and output.nbytes > self._largest:
            raise TooLarge(output.nbytes)
        if operation == "add":
            check_batch_first(output, self.recording.batch_size)
        if operation == UNCHANGED:
            args, kwargs, tensors = (), {}, path[:1]  # nothing is needed later, nothing is kept
        else:
            tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
            args = [TENSOR if isinstance(a, Tensor) else a for a in args]
            kwargs = {k: TENSOR if isinstance(a, Tensor) else a for k, a in kwargs.items()}
        recorded = Recorded.apply(
            self.recording.backward, operation, args, kwargs, output, *tensors
        )
        self._note(operation, path, recorded)
        return recorded

    def _note(self, operation: str, path: list[Tensor], output: Tensor) -> None:
        recording = self.recording
        set_role(output, role(path[0]) if operation == UNCHANGED else None)
        self._follow(output, path, all_of_it=operation == UNCHANGED)
        if operation == "patch_embedding":
            if recording.grid is not None:
                raise UnsupportedModel(
                    "a second patch embedding: the model sees the image twice, and relevance "
                    "follows one pass; explain the passes one by one"
                )
            recording.source, recording.patches = path[0], output
            recording.grid, self._embedded = tuple(output.shape[-2:]), True
        elif operation == "linear" and not self._embedded:
            # The relevance of a text ends where its embeddings are complete: at the first layer.
            recording.source, self._embedded = whole(path[0]), True
        elif operation == "add":
            if role(path[0]) == SCORES:
                set_role(output, SCORES)
            elif output.ndim == 3:
                recording.stream = output
        elif operation in ("matmul", "einsum"):
            if role(path[0]) == ATTENTION:
                self._note_attention(path[0], path[1:], output)
            else:
                set_role(output, SCORES)

    def _note_attention(self, attention: Tensor, others: list[Tensor], output: Tensor) -> None:
        """``others``: V, and whatever else an einsum may multiply them by."""
        seen = self.recording.attention
        block = next((b for b, known in enumerate(seen) if attention is known), len(seen))
        check_block(max(map(height, others)), block)
        if block == len(seen):
            check_attention(attention, self.recording.batch_size)
            if block == 0:
                self.recording.values = others[0]
            seen.append(attention)
            self.recording.backward.blocks += 1
        set_height(output, block + 1)

    def _follow(self, output: Tensor, path: list[Tensor], all_of_it: bool) -> None:
        """Note the attention below ``output``, and the text that it is another form of."""
        set_height(output, max(map(height, path)))
        if all_of_it and not self._embedded and output is not path[0]:
            set_whole(output, path[0])

    # ------------------------------------------------------------------ in-place operations

    def _run_in_place(self, function, args, kwargs):
        """Run an in-place call on a copy; from here on the copy stands for the tensor written to.

        The recording keeps tensors that rules need later, so none may be overwritten.
        """
        path = [t for t in tensors_in(*args, *kwargs.values()) if on_path(t)]
        if not path:
            return function(*args, **kwargs)
        target = args[0]
        if "inplace" in kwargs:
            kwargs = kwargs | {"inplace": False}
        if function is Tensor.__setitem__:
            check_recorded(path)
            output = set_role(target.clone(), role(target))
            self._follow(output, path, all_of_it=False)
            function(output, *args[1:])
        else:
            output = self._run(OUT_OF_PLACE.get(function, function), args, kwargs)
        if output is not target:  # as it is after dropout in evaluation
            self._rewritten[id(target)] = (target, output)
            if not _same_memory(output, target):  # as it is after unsqueeze_
                self._stale_storages.add(target.untyped_storage().data_ptr())
        return None if function is Tensor.__setitem__ else output

    def current(self, value):
        """``value`` as a call must see it: rewritten tensors replaced, parameters as constants."""
        if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
            values = [self.current(v) for v in value]
            return type(value)(*values) if hasattr(value, "_fields") else type(value)(values)
        if not isinstance(value, Tensor):
            return value
        if value.requires_grad and value.is_leaf and not is_recorded(value):
            return value.detach()  # a parameter: no weight gradients
        while id(value) in self._rewritten:
            value = self._rewritten[id(value)][1]
        if self._stale_storages and value.layout == torch.strided:
            if value.untyped_storage().data_ptr() in self._stale_storages:
                raise UnsupportedModel(
                    f"a tensor of shape {list(value.shape)} is used after an in-place operation on "
                    "another view of its memory; write that operation out of place"
                )
        return value


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
