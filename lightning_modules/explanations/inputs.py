"""What a person wants explained: pictures and texts, from files, folders, patterns or as given."""

from __future__ import annotations

import glob
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lightning_modules.data.folders import (
    files_in,
    has_ending,
    left_by_system,
    parted_by_ending,
    say_left_out,
)
from lightning_modules.data.images.files import IMAGE_ENDINGS, read_image
from lightning_modules.data.texts.files import read_text
from lightning_modules.utils.errors import InputError

EXTENSIONS = {"vit": IMAGE_ENDINGS, "bert": (".txt",)}  # what is taken from a folder
CALLED = {"vit": "image", "bert": "text"}


@dataclass(frozen=True)
class Input:
    """One picture or text: a file, not read yet, or a text that was given."""

    name: str
    path: Path | None = None
    text: str | None = None

    def read(self, kind: str) -> Image.Image | str:
        """An RGB picture for a ``vit``, a text for a ``bert``.

        Raises:
            OSError, InputError: it cannot be read, or there is nothing to explain.
        """
        if kind == "vit":
            return read_image(self.path)
        text = self.text if self.path is None else read_text(self.path, "a text in UTF-8")
        if not text.strip():
            raise InputError(f"{self.name}: no text")
        return text


def given_texts(texts: list[str]) -> list[str]:
    """Those of the command line; for ``-`` one a line of standard input."""
    if "-" not in texts:
        return texts
    lines = [line.rstrip("\n") for line in sys.stdin if line.strip()]
    return [t for text in texts for t in (lines if text == "-" else [text])]


def find_inputs(patterns: Sequence[str], texts: Sequence[str], kind: str) -> list[Input]:
    """All inputs that files, folders (with all they hold), glob patterns and texts come to.

    Raises:
        InputError: there are none, a path leads to none, or the classifier is of another kind.
    """
    if texts and kind == "vit":
        raise InputError("--text: the checkpoint is of an image classifier; accepted: --input")
    found = [Input(str(path), path) for pattern in patterns for path in find_files(pattern, kind)]
    found += [Input(f"text {number}", text=text) for number, text in enumerate(texts, start=1)]
    if not found:
        accepted = "--input PATH..." + (" or --text TEXT..." if kind == "bert" else "")
        raise InputError(f"no input; accepted: {accepted}")
    return list(dict.fromkeys(found))


def find_files(pattern: str, kind: str) -> list[Path]:
    """A file; or the images, or texts, of a folder; or what matches a glob pattern.

    Says what else lies in a folder. What is hidden there, or left by systems, counts as nothing.
    """
    path = Path(pattern).expanduser()
    extensions = EXTENSIONS[kind]
    wanted = f"{CALLED[kind]}s ({' '.join(extensions)})"
    accepted = f"a file, a folder of {wanted}, or a glob pattern"
    if path.is_file():
        for other, suffixes in EXTENSIONS.items():
            if other != kind and has_ending(path, suffixes):
                raise InputError(
                    f"--input {pattern}: the classifier is of {CALLED[kind]}s, this is "
                    f"{'an' if other == 'vit' else 'a'} {CALLED[other]}; accepted: {accepted}"
                )
        return [path]
    if path.is_dir():
        files, others = parted_by_ending(files_in(path), extensions)
        files = sorted(map(Path, files))
    else:
        matches = map(Path, sorted(glob.glob(str(path), recursive=True)))
        files = [match for match in matches if match.is_file() and is_asked_for(match, path)]
        others = []
    if not files:
        raise InputError(f"--input {pattern}: no {CALLED[kind]} is there; accepted: {accepted}")
    say_left_out(path, others, wanted)
    return files


def is_asked_for(match: Path, pattern: Path) -> bool:
    """False where a wildcard stands for what a system has left; glob itself leaves out dots."""
    return not any(map(left_by_system, set(match.parts) - set(pattern.parts)))
