"""Trained classifiers, from their checkpoints."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_modules import CLASSIFIERS
from lightning_modules.classifier import Classifier
from lightning_modules.errors import InputError, blamed_on

WRITTEN_BY_TRAIN = "a checkpoint that train.py has written"
PARTS = {"state_dict": dict, "hyper_parameters": dict}  # what a classifier is made of
PARTS_TO_RESUME = PARTS | {
    "epoch": int,
    "global_step": int,
    "without_sources": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks": dict,
}


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


def read_checkpoint(checkpoint: Path, parts: Mapping[str, type] = PARTS) -> dict[str, Any]:
    """What is in a checkpoint of ours. A checkpoint is data: it runs no code.

    Raises:
        InputError: the file is broken, of another program, or would run code; or one of the
            ``parts`` is not there.
    """
    accepted = f"accepted: {WRITTEN_BY_TRAIN}"
    state = load_data(checkpoint, accepted)
    kind = state.get("kind") if isinstance(state, dict) else None
    if not isinstance(kind, str) or kind not in CLASSIFIERS:
        raise InputError(f"{checkpoint}: it is of another program; {accepted}")
    for name, type_ in parts.items():
        if not isinstance(state.get(name), type_):
            problem = f"it is broken ({name} is missing, or no {type_.__name__})"
            raise InputError(f"{checkpoint}: {problem}; {accepted}")
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
    cls = CLASSIFIERS[read_checkpoint(checkpoint)["kind"]]
    with blamed_on(f"{checkpoint}: it is broken", WRITTEN_BY_TRAIN):
        module = cls.load_from_checkpoint(
            checkpoint, map_location="cpu", weights_only=True, **cls.no_sources
        ).eval()
        module.check_inputs()
    return module
