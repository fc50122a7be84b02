"""Files that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def replace_file(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write beside the file, then rename over it; a reader never sees half of it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # or a power cut may keep the name and lose the content
    except BaseException:  # a full disk, Ctrl-C: make room again
        partial.unlink(missing_ok=True)
        raise
    os.replace(partial, path)
