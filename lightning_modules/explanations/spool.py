"""What a call has found so far, on disk: to hold a batch in memory, and to go on after a cut."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lightning_modules.explanations.entries import Entry, entry_of, plain
from lightning_modules.utils.checkpoint_files import load_data
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.files import replace_file

KEPT = ".progress"  # a folder beside what is written
ABOUT = "about.pt"
ACCEPTED = "accepted: what explain.py has left there; or start anew, without --resume"


@dataclass(frozen=True)
class Batch:
    """What a batch has brought.

    Attributes:
        entries: of those of its inputs that are explained, in their order.
        failures: why the others are not.
        left_out: why methods that were asked for are left out; None as long as no input could be
            read, from which it would be known.
    """

    entries: list[Entry]
    failures: list[str]
    left_out: dict[str, str] | None


@dataclass(frozen=True)
class Note:
    """What is remembered of a batch: how many inputs are explained, and why others are not."""

    explained: int
    failures: list[str]
    left_out: dict[str, str] | None


class Spool:
    """The batches of a call that are done, a file each, in the folder that it writes into.

    Iterating over it gives their entries, in the order of the inputs.

    Attributes:
        notes: of the batches that are done, by their number.
    """

    def __init__(self, folder: Path) -> None:
        self.output, self.folder = folder, folder / KEPT
        self.notes: dict[int, Note] = {}

    @property
    def failures(self) -> list[str]:
        """Why inputs are not explained, in their order."""
        return [reason for _, note in sorted(self.notes.items()) for reason in note.failures]

    @property
    def left_out(self) -> dict[str, str] | None:
        """As of :class:`Batch`, of the call."""
        found = (note.left_out for note in self.notes.values() if note.left_out is not None)
        return next(found, None)

    def begin(self, about: Mapping[str, Any]) -> None:
        """Anew, for a call with these options."""
        self.end()
        self.folder.mkdir(parents=True)
        save(dict(about), self.folder / ABOUT)

    def go_on(self, about: Mapping[str, Any], batches: int) -> None:
        """With what is kept of the same call of so many batches, or anew where nothing is.

        Raises:
            InputError: it is of another call, or broken.
        """
        if not (self.folder / ABOUT).is_file():
            return self.begin(about)
        began = load_data(self.folder / ABOUT, ACCEPTED)
        if not isinstance(began, dict):
            raise foreign(self.folder / ABOUT)
        for key, value in about.items():
            if began.get(key) != value:
                was = f", {began[key]!r}" if key in began and key != "inputs" else ""
                raise InputError(
                    f"--resume: what is begun in {self.output} has other {key}{was}; accepted: the "
                    "same, or a new --output"
                )
        for number in range(batches):
            if self.path(number).is_file():
                self.notes[number] = note_of(self.load(self.path(number)))

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.pt"

    def keep(self, number: int, batch: Batch) -> Note:
        """Write the batch into its file, for this process or another to note."""
        state = {
            "entries": [plain(entry) for entry in batch.entries],
            "failures": batch.failures,
            "left_out": batch.left_out,
        }
        save(state, self.path(number))
        return note_of(batch)

    def load(self, path: Path) -> Batch:
        state = load_data(path, ACCEPTED)
        try:
            entries = [entry_of(kept) for kept in state["entries"]]
            return Batch(entries, list(state["failures"]), state["left_out"])
        except (KeyError, TypeError, AttributeError):
            raise foreign(path) from None

    def __len__(self) -> int:
        return sum(note.explained for note in self.notes.values())

    def __iter__(self) -> Iterator[Entry]:
        for number in sorted(self.notes):
            yield from self.load(self.path(number)).entries

    def end(self) -> None:
        """Nothing of it is left."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)


def note_of(batch: Batch) -> Note:
    return Note(len(batch.entries), batch.failures, batch.left_out)


def foreign(path: Path) -> InputError:
    return InputError(f"{path}: it is of another program; {ACCEPTED}")


def save(state: Any, path: Path) -> None:
    content = io.BytesIO()  # torch's own words for a full disk are not for people
    torch.save(state, content)
    replace_file(path, lambda file: file.write(content.getbuffer()))
