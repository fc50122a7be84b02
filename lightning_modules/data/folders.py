"""What of a folder counts: not what is hidden, nor what systems leave behind."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lightning_modules.utils.errors import InputError
from lightning_modules.utils.terminal import tell

# Of macOS, Windows, and the file servers of Synology and QNAP, in lower case.
LEFT_BY_SYSTEMS = {
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    *("$recycle.bin", "system volume information", "@eadir", "#recycle", "lost+found"),
}
NAMED = 3  # files of those that are left out


def hidden(name: str) -> bool:
    """True for the name of a file or folder that is not a person's, as .ipynb_checkpoints."""
    return name.startswith(".") or left_by_system(name)


def left_by_system(name: str) -> bool:
    """True for such a name that does not begin with a dot, as Thumbs.db."""
    return name.lower() in LEFT_BY_SYSTEMS


def files_in(folder: str | Path) -> list[str]:
    """Paths of all files in a folder and its folders that are not hidden, by folder and name.

    Links are followed, but not to a folder that is among them already.

    Raises:
        InputError: a folder cannot be read.
    """
    found, seen = [], {os.path.realpath(folder)}
    for inside, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        places = {name: os.path.realpath(os.path.join(inside, name)) for name in sorted(folders)}
        folders[:] = [n for n, place in places.items() if not hidden(n) and place not in seen]
        seen.update(places[name] for name in folders)
        found += [(inside, name) for name in files if not hidden(name)]
    return [os.path.join(*place) for place in sorted(found)]


def _refuse(error: OSError) -> NoReturn:
    problem = f"{error.filename}: {error.strerror}"
    raise InputError(f"{problem}; accepted: a folder that can be read") from error


def has_ending(path: str | Path, endings: Sequence[str]) -> bool:
    """True where the name of a file ends in one of these, in upper or lower case."""
    return os.path.splitext(path)[1].lower() in endings


def parted_by_ending(files: Sequence[str], endings: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those of the files that have one of these endings, and the others."""
    parts = [], []
    for file in files:
        parts[not has_ending(file, endings)].append(file)
    return parts


def say_left_out(folder: str | Path, files: Sequence[str], taken: str) -> None:
    """Says in one line how many files of a folder are left out, names some, and what is `taken`."""
    if not files:
        return
    count = f"{len(files)} file" + "s" * (len(files) > 1)
    named = ", ".join(os.path.relpath(file, folder) for file in files[:NAMED])
    more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    tell(f"{folder}: left out {count}: {named}{more}; taken are {taken}")
