"""Results in files: pictures, numbers as npz and json, one page for all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lightning_modules.explanations.as_json import json_of, write_json
from lightning_modules.explanations.as_npz import arrays_of, write_npz
from lightning_modules.explanations.entries import Entries, Entry, Shared
from lightning_modules.explanations.page import page_entry, write_page
from lightning_modules.explanations.results import Result
from lightning_modules.utils.files import replace_file
from lightning_modules.utils.names import slug

FORMATS = ("png", "html", "npz", "json")


def write_png(result: Result, folder: Path) -> Path:
    """The picture of one result."""
    path = folder / f"{slug(result.name)}.png"
    image = Image.fromarray(result.picture())
    replace_file(path, lambda file: image.save(file, format="png"))
    return path


def make_entry(result: Result, formats: Sequence[str]) -> Entry:
    """What the files of these formats have of a result."""
    result = result.small()
    return Entry(
        result.name,
        json_of(result) if "json" in formats else None,
        arrays_of(result) if "npz" in formats else None,
        page_entry(result) if "html" in formats else None,
    )


def write_all(
    entries: Entries, shared: Shared, formats: Sequence[str], about: dict[str, Any], folder: Path
) -> list[Path]:
    """What is one file for all inputs, of which ``entries`` has one or more."""
    written = []
    if "html" in formats:
        written.append(folder / "explanations.html")
        write_page(entries, shared, written[-1], about["title"])
    if "npz" in formats:
        written.append(write_npz(entries, shared, folder))
    if "json" in formats:
        written.append(write_json(entries, shared, about, folder))
    return written
