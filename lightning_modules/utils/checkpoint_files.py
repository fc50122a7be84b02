"""Checkpoints as files: where they lie, and reading them without running code."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

from lightning_modules.utils.errors import InputError

WRITTEN_BY_TRAIN = "a checkpoint that train.py has written"


def find_checkpoint(path: str | Path, option: str = "--checkpoint") -> Path:
    """A checkpoint file, or the best one of a run's folder, or else its last.

    Raises:
        FileNotFoundError: there is none; names the ``option`` that asked for it.
    """
    path = Path(path)
    if path.is_file():
        return path
    for name in ("best.ckpt", "last.ckpt"):
        if (path / "checkpoints" / name).is_file():
            return path / "checkpoints" / name
    raise FileNotFoundError(
        f"{option} {path}: no checkpoint is there; accepted: the folder of a run, with "
        "checkpoints/best.ckpt or last.ckpt, or such a file"
    )


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that a checkpoint is of, if it still lies there."""
    run_dir = checkpoint.parent.parent
    return run_dir if (run_dir / "config.yaml").is_file() else None


def load_data(path: Path, accepted: str) -> Any:
    """What torch.save has written, if it is data and whole, to the last bit of every weight.

    Raises:
        InputError: the file is broken or would run code; says what is ``accepted``.
    """
    import torch  # takes seconds, and a file that is not there is told without

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
