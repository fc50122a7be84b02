"""Trained classifiers, from their checkpoints."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from lightning_modules import CLASSIFIERS
from lightning_modules.classifier import Classifier
from lightning_modules.errors import InputError


def find_checkpoint(path: str | Path) -> Path:
    """A checkpoint file, or the best one of a run's folder, or else its last.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    for name in ("best.ckpt", "last.ckpt"):
        if (path / "checkpoints" / name).is_file():
            return path / "checkpoints" / name
    raise FileNotFoundError(
        f"--checkpoint {path}: no checkpoint is there; accepted: the folder of a run, with "
        "checkpoints/best.ckpt or last.ckpt, or such a file"
    )


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that a checkpoint is of, if it still lies there."""
    run_dir = checkpoint.parent.parent
    return run_dir if (run_dir / "config.yaml").is_file() else None


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """What is in a checkpoint of ours. A checkpoint is data: it runs no code.

    Raises:
        InputError: the file is broken, of another program, or would run code.
    """
    accepted = "accepted: a checkpoint that train.py has written"
    state = load_data(checkpoint, accepted)
    if not isinstance(state, dict) or state.get("kind") not in CLASSIFIERS:
        raise InputError(f"{checkpoint}: it is of another program; {accepted}")
    return state


def load_data(path: Path, accepted: str) -> Any:
    """What torch.save has written, if it is data and whole, to the last bit of every weight.

    Raises:
        InputError: the file is broken or would run code; says what is ``accepted``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:  # torch.load does not compare checksums
                raise ValueError(f"{damaged} is not what was written")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a damaged or hostile file makes its reader raise
        lines = str(error).splitlines() or [type(error).__name__]
        reason = f"it cannot be read ({lines[0]})"
        if isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error).lower():
            reason = "it holds more than data, and loading it could run code"
        raise InputError(f"{path}: {reason}; {accepted}") from None


def load_classifier(checkpoint: Path) -> Classifier:
    """The classifier in a checkpoint, in evaluation; errors as of :func:`read_checkpoint`."""
    kind = read_checkpoint(checkpoint)["kind"]
    try:
        return (
            CLASSIFIERS[kind]
            .load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
            .eval()
        )
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{checkpoint}: it is broken ({reason}); accepted: a checkpoint that train.py has "
            "written"
        ) from None
