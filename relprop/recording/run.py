"""What surrounds a recording and a backward pass: nothing of a caller's, and no dropout."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from relprop.errors import UnsupportedModel
from relprop.recording.model_io import batch_size, leaves, scores_of
from relprop.recording.record import Recording
from relprop.recording.recorder import Recorder
from relprop.recording.refusals import check_recorded
from relprop.recording.tags import tag

_RECORDING = threading.RLock()  # recordings change the model's train/eval flags: one at a time


def forward(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Tensor],
    output: Callable[[object], Tensor] | None = None,
    position: int | Tensor | None = None,
    learned: Sequence[str] = (),
    largest: int | None = None,
) -> tuple[Tensor, Recording, Tensor | None]:
    """What a :class:`~relprop.trace.Trace` is made of: logits, the recording, and a mask."""
    keywords = dict(inputs) if isinstance(inputs, Mapping) else {"input": inputs}
    device = next((x.device for x in keywords.values() if isinstance(x, Tensor)), "cpu")
    with _RECORDING, as_if_alone(device), torch.enable_grad():
        recorder = Recorder(batch_size(inputs), largest, torch.device(device).type)
        keywords = leaves(keywords, recorder)
        for name in learned:
            recorder.learn(name, _parameter(model, name))
        mask = keywords.get("attention_mask")
        mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        with evaluating(model), torch.compiler.set_stance("force_eager"), recorder:
            if isinstance(inputs, Mapping):
                returned = model(**keywords)
            else:
                returned = model(keywords["input"])
            scores = scores_of(returned, output, position, mask)
        scores, recording = recorder.current(scores), recorder.recording
        if scores.requires_grad:
            check_recorded([scores], recording.running)
            recording.read(tag(scores).number)
    if scores.dtype in (torch.float16, torch.bfloat16):
        warnings.warn(
            f"the model is in {scores.dtype}, where maps by relevance of both signs (lrp) are lost "
            "to rounding, and others suffer; explain a copy of it: copy.deepcopy(model).float()",
            stacklevel=3,
        )
    return scores, recording, None if mask is None else mask.bool()


def _parameter(model: nn.Module, name: str) -> nn.Parameter:
    known = dict(model.named_parameters())
    if name not in known:
        raise ValueError(f"learned: {name!r} is no parameter; accepted: {', '.join(known)}")
    return known[name]


@contextmanager
def as_if_alone(device: torch.device | str) -> Iterator[None]:
    """Outside of the inference mode and autocast that a caller may be in."""
    with torch.inference_mode(False), torch.autocast(torch.device(device).type, enabled=False):
        yield


@contextmanager
def walking(device: torch.device) -> Iterator[None]:
    try:
        with as_if_alone(device), Recorder.paused():
            yield
    except CheckpointError:
        raise UnsupportedModel(
            "the model checkpoints its activations, and not by a switch of its modules "
            "(grad_checkpointing, gradient_checkpointing): blocks would run a second time, unseen"
        ) from None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation and without gradient checkpointing; as it was afterwards.

    Checkpointing would run blocks a second time, outside the recording.
    """
    switches = ("training", "grad_checkpointing", "gradient_checkpointing")
    before = [
        (module, switch, value)
        for module in model.modules()
        for switch in switches
        if (value := module.__dict__.get(switch)) is not None
    ]
    try:
        for module, switch, _ in before:
            module.__dict__[switch] = False
        yield
    finally:
        for module, switch, value in before:
            module.__dict__[switch] = value
