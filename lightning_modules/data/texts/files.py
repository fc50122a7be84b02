"""Text files, read so that what is wrong with one is told with its line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lightning_modules.utils.errors import InputError


@dataclass(frozen=True)
class Line:
    """A line of a file, in place of the file, where each of them is a thing of its own."""

    path: Path
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}, line {self.number}"


def read_text(path: str | Path, accepted: str) -> str:
    """A file's text, which is not empty; a byte order mark is dropped.

    Args:
        path: of the file.
        accepted: for errors, what should be there.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: the file is empty or not UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; accepted: {accepted}")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise InputError(f"{path}, line {line}: byte 0x{byte:02x}; accepted: UTF-8") from None
    if not text.strip():
        raise InputError(f"{path}: empty; accepted: {accepted}")
    return text


def read_lines(path: str | Path, accepted: str) -> Iterator[tuple[int, str]]:
    """(number, line) of every line that is not blank, numbered from 1; see `read_text`."""
    for number, line in enumerate(read_text(path, accepted).split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


def read_jsonl(path: str | Path, accepted: str) -> Iterator[tuple[int, dict]]:
    """(line number, object) of every line that is not blank.

    Raises:
        FileNotFoundError, InputError: see `read_text`; or a line holds no JSON object.
    """
    for number, line in read_lines(path, accepted):
        try:
            row = json.loads(line, object_pairs_hook=_without_doubles)
        except (ValueError, RecursionError) as error:
            problem = f"malformed JSON ({error})"
            raise InputError(f"{path}, line {number}: {problem}; accepted: {accepted}") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: no JSON object; accepted: {accepted}")
        yield number, row


def _without_doubles(pairs: list[tuple[str, object]]) -> dict:
    """The object of a JSON text, of whose values for one name json itself would keep the last."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{max(names, key=names.count)!r} twice")
    return row
