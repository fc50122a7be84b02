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
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from relprop.attention import COMPOSED
from relprop.backward import TENSOR, Recorded
from relprop.checks import (
    check_attention,
    check_batch_first,
    check_block,
    check_one_pass,
    check_patches,
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
from relprop.recording import Embedding, Recording


class _Active(threading.local):
    """The recorders of this thread, innermost last: an outer one pauses for an inner one."""

    def __init__(self) -> None:
        self.stack: list[Recorder | None] = []


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
        self._embedded = self._patches = False
        self._rewritten: dict[int, tuple[Tensor, Tensor]] = {}
        self._stale_storages: set[int] = set()

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
        args = tuple(_as_saved(a) for a in args)
        kwargs = {k: _as_saved(a) for k, a in kwargs.items()}
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
        if operation in ("patch_embedding", "linear"):
            self._note_embedding(operation, rule_args, rule_kwargs, recorded)
        if operation == UNCHANGED and function in ELEMENTWISE and recorded is not path[0]:
            set_origin(recorded, path[0])
        if function in SOFTMAX and role(path[0]) == SCORES:
            check_softmax(*args, **kwargs)
            set_role(recorded, ATTENTION)
        return recorded

    def _run_off_path(self, function, args, kwargs):
        output, recording = function(*args, **kwargs), self.recording
        first = next(iter((*args, *kwargs.values())), None)
        if not isinstance(first, Tensor) or role(first) != IDS:
            return output
        if function is F.embedding and recording.input is None:
            # The first look-up of the model's ids. Later ones (positions, types) are constants.
            recording.input = recording.source = set_role(output.requires_grad_(), None)
            recording.is_text = True
            return output
        if function is F.embedding and not recording.is_text:
            recording.has_others = True
        elif function is F.embedding and recording.attention:
            check_one_pass(output, recording.input)
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
        set_role(recorded, role(path[0]) if operation == UNCHANGED else None)
        self._follow(recorded, path, all_of_it=operation == UNCHANGED)
        self._note(operation, path, recorded)
        return recorded

    def _note(self, operation: str, path: list[Tensor], output: Tensor) -> None:
        if operation == "add":
            if role(path[0]) == SCORES:
                set_role(output, SCORES)
            elif output.ndim == 3:
                self.recording.sums[-1].append(output)
        elif operation in ("matmul", "einsum"):
            if role(path[0]) == ATTENTION:
                self._note_attention(path[0], path[1:], output)
            else:
                set_role(output, SCORES)

    def _note_embedding(self, operation: str, args, kwargs, output: Tensor) -> None:
        """Of the first layer on the input: there its tokens begin, and a text's are complete."""
        if operation == "linear" and self._embedded:
            return
        recording, convolved = self.recording, args[1].ndim == 4
        if operation == "patch_embedding":
            if self._patches:
                raise UnsupportedModel(
                    "a second patch embedding: the model sees the image twice, and relevance "
                    "follows one pass; explain the passes one by one"
                )
            check_patches(args[0], recording.batch_size)
            self._patches = True
        options = dict(zip(("stride", "padding", "dilation"), args[3:6], strict=False)) | kwargs
        kernel = tuple(args[1].shape[2:]) if convolved else None
        recording.embedding = Embedding(args[0], output, kernel, options)
        recording.source, self._embedded = args[0] if convolved else whole(args[0]), True

    def _note_attention(self, attention: Tensor, others: list[Tensor], output: Tensor) -> None:
        """``others``: V, and whatever else an einsum may multiply them by."""
        seen = self.recording.attention
        block = next((b for b, known in enumerate(seen) if attention is known), len(seen))
        check_block(max(map(height, others)), block)
        if block == len(seen):
            check_attention(attention, self.recording.batch_size, seen)
            seen.append(attention)
            self.recording.values.append(others[0])
            self.recording.products.append([])
            self.recording.sums.append([])
            self.recording.backward.blocks += 1
        self.recording.products[block].append(get_gradient_edge(output))
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
            output = set_role(target.clone(), role(path[0]))
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


def _as_saved(value):
    """A copy of weights, or a table, made in inference mode: autograd keeps no such tensor."""
    if isinstance(value, (tuple, list)) and any(t.is_inference() for t in tensors_in(value)):
        return type(value)(_as_saved(v) for v in value)
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
