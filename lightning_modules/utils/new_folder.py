"""Folders that are either whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_modules.utils.errors import InputError


def check_new_folder(path: Path) -> None:
    """Raises an InputError unless a folder can be made there, or an empty one is there."""
    accepted = "accepted: a folder that is not there, or is empty"
    for place in (path, *path.parents):
        if os.path.lexists(place) and not place.is_dir():
            raise InputError(f"{path}: {place} is no folder; {accepted}")
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"{path}: it is not empty; {accepted}")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into that becomes ``path`` at the end; on an error it is gone.

    Raises:
        InputError: as of :func:`check_new_folder`.
        OSError: it cannot be written.
    """
    check_new_folder(path)
    path = path.resolve()
    beside = next(place for place in path.parents if place.is_dir())  # of the same disk
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=beside) as hidden:
        partial = Path(hidden, "partial")  # with the rights that a new folder has
        partial.mkdir()
        yield partial
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial, path)
