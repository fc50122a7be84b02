"""What surrounds a recording and a backward pass: nothing of a caller's, and no dropout."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from relprop.errors import UnsupportedModel, described, warn_caller
from relprop.recording.eager import eagerly
from relprop.recording.model_io import batch_size, leaves, scores_of
from relprop.recording.record import Recording
from relprop.recording.recorder import Recorder
from relprop.recording.refusals import check_recorded
from relprop.recording.tags import on_path, tag

_RECORDING = threading.RLock()  # recordings change the model's train/eval flags: one at a time


def forward(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Tensor],
    output: Callable[[object], Tensor] | None = None,
    position: int | Tensor | None = None,
    learned: Sequence[str] = (),
    largest: int | None = None,
    with_weights: bool = False,
) -> tuple[Tensor, Recording, Tensor | None]:
    """What a :class:`~relprop.trace.Trace` is made of: logits, the recording, and a mask."""
    check_asked(model, output, position)
    learned = names_of(learned)
    keywords = dict(inputs) if isinstance(inputs, Mapping) else {"input": inputs}
    device = next((x.device for x in keywords.values() if isinstance(x, Tensor)), "cpu")
    with _RECORDING, as_if_alone(device), torch.enable_grad():
        recorder = Recorder(batch_size(inputs), largest, torch.device(device).type, with_weights)
        keywords = leaves(keywords, recorder)
        for name in learned:
            recorder.learn(name, _parameter(model, name))
        mask = keywords.get("attention_mask")
        mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        of_scores = mask
        if any(name.startswith("decoder_input") for name in keywords):
            of_scores = keywords.get("decoder_attention_mask")
        with evaluating(model), eagerly(), recorder:
            if isinstance(inputs, Mapping):
                returned = model(**keywords)
            else:
                returned = model(keywords["input"])
            scores = scores_of(returned, output, position, of_scores)
        scores, recording = recorder.current(scores), recorder.recording
        recording.end()
        if on_path(scores):
            check_recorded([scores], recording.running)
            recording.read(tag(scores).number)
    check_learned(learned, recording)
    if scores.dtype in (torch.float16, torch.bfloat16):
        warn_caller(
            f"the model is in {scores.dtype}, where maps by relevance of both signs (lrp) are lost "
            "to rounding, and others suffer; explain a copy of it: copy.deepcopy(model).float()"
        )
    return scores, recording, None if mask is None else mask.bool()


def _parameter(model: nn.Module, name: str) -> nn.Parameter:
    known = dict(model.named_parameters())
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=5, cutoff=0) or ["none: it has none"]
        raise ValueError(
            f"learned: {name!r} is no parameter; accepted: names of the model's, such as "
            f"{', '.join(near)}"
        )
    return known[name]


def check_asked(model: object, output: object, position: object) -> None:
    """A ValueError where what a recording takes is of the wrong kind."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model is {described(model)}; accepted: a torch.nn.Module")
    if output is not None and not callable(output):
        raise ValueError(
            f"output is {described(output)}; accepted: a function from what the model returns to "
            "scores [B, C]"
        )
    if output is not None and position is not None:
        raise ValueError(
            "position is of the model's own logits, and output= makes others; accepted: one of "
            "the two, as output=lambda o: o.logits[:, 3]"
        )


def names_of(learned: Iterable[str]) -> tuple[str, ...]:
    """The names of parameters; a ValueError where it is one string, or none."""
    if isinstance(learned, str) or not isinstance(learned, Iterable):
        raise ValueError(
            f"learned is {described(learned)}; accepted: a list of names of parameters"
        )
    return tuple(learned)


def check_learned(learned: Sequence[str], recording: Recording) -> None:
    """A ValueError where a parameter has not become a source."""
    for name in learned:
        if name not in recording.sources:
            raise ValueError(
                f"learned: {name!r} is not made into tokens of each sample; accepted: a parameter "
                f"that the model expands to [{recording.batch_size}, tokens, channels], such as "
                "the object queries of DETR"
            )


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
