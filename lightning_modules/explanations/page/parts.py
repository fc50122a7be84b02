"""The parts of a page of many inputs: a script and a picture of thumbnails each, in a folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path

import numpy as np
from PIL import Image

from lightning_modules.explanations.entries import Entries, PageEntry
from lightning_modules.explanations.page.content import THUMBNAIL

PART = 50  # inputs
COLUMNS = 10  # of thumbnails


def part_folder(page: Path) -> Path:
    """Where the parts of a page lie."""
    return page.with_suffix(".parts")


def pages_in_parts(entries: Entries, page: Path) -> Iterator[PageEntry]:
    """What the page has of all inputs, which is written into parts meanwhile.

    They are in the place of an earlier page's once all inputs have been taken.
    """
    folder = part_folder(page)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    remaining = iter(entries)
    try:
        partial.mkdir()
        for number in count():
            part = [entry.page for entry in islice(remaining, PART)]
            if not part:
                break
            details = ",".join(page.detail for page in part)
            (partial / f"{number}.js").write_text(f"addPart({number},[{details}]);\n")
            if not isinstance(part[0].glimpse, str):
                thumbnails(part).save(partial / f"{number}.jpg", quality=85)
            yield from part
        remove_parts(page)
        partial.rename(folder)
    except BaseException:  # a full disk, Ctrl-C: make room again
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove_parts(page: Path) -> None:
    """Of an earlier page."""
    if part_folder(page).is_dir():
        shutil.rmtree(part_folder(page))


def thumbnails(part: Sequence[PageEntry]) -> Image.Image:
    """Those of a part as one picture, row by row."""
    sheet = np.zeros((-(-len(part) // COLUMNS) * THUMBNAIL, COLUMNS * THUMBNAIL, 3), np.uint8)
    for number, page in enumerate(part):
        top, left = (THUMBNAIL * place for place in divmod(number, COLUMNS))
        sheet[top : top + THUMBNAIL, left : left + THUMBNAIL] = page.glimpse
    return Image.fromarray(sheet)
