"""What surrounds a recording and a backward pass: nothing of a caller's, and no dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointError

from relprop.errors import UnsupportedModel
from relprop.recorder import Recorder


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
