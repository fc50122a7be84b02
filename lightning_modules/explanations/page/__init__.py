"""The explanations of a call as one page that opens from disk: no network, no server.

Of more than ``ALONE`` inputs the page has what they are sorted and filtered by; the rest lies in a
folder beside it, in parts, which are loaded when they are looked at.

Everything that comes from the user, names and texts, is in the page as JSON alone, from which
the scripts make text nodes; a Content-Security-Policy admits no other script, style or address.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from lightning_modules.explanations.entries import Entries, PageEntry, Shared
from lightning_modules.explanations.page.content import (
    THUMBNAIL,
    Head,
    page_entry,
    script_text,
)
from lightning_modules.explanations.page.parts import (
    COLUMNS,
    PART,
    pages_in_parts,
    part_folder,
    remove_parts,
)
from lightning_modules.utils.files import replace_file

__all__ = ["page_entry", "write_page"]

ALONE = 300  # most inputs of a page that is a single file
# What the policy of a page with parts admits besides: pictures beside it, and the scripts that its
# own script asks for. No hash can name these: a browser compares none of a file on disk.
PICTURES, SCRIPTS = " 'self' file:", " 'strict-dynamic'"


def write_page(entries: Entries, shared: Shared, path: Path, heading: str) -> None:
    """All inputs of a call as a page with ``heading``; of many, their parts beside it."""
    inputs, in_parts = [], len(entries) > ALONE
    head = Head(shared, heading)
    for page in pages_in_parts(entries, path) if in_parts else (entry.page for entry in entries):
        head.add(page)
        more = beginning(page) if in_parts else page.detail
        inputs.append(f"{page.summary[:-1]},{more[1:]}")
    said = head.said()
    if in_parts:
        said["parts"] = {
            "folder": part_folder(path).name,
            "size": PART,
            "columns": COLUMNS,
            "thumbnail": THUMBNAIL,
        }
    page = rendered(said, inputs, head.scripts.values())
    replace_file(path, lambda file: file.write(page.encode()))
    if not in_parts:
        remove_parts(path)


def beginning(page: PageEntry) -> str:
    """What a card has before its part is there: the beginning of a text; null of a picture."""
    return script_text({"text": page.glimpse if isinstance(page.glimpse, str) else None})


def rendered(head: dict[str, Any], inputs: Sequence[str], more: Iterable[str] = ()) -> str:
    """The page, of what all inputs have in common and of each as JSON.

    ``more``: scripts of its parts, see :class:`.Part`.
    """
    files = resources.files(__name__)
    template, style, maps, cards, page = (
        files.joinpath(name).read_text("utf-8")
        for name in ("page.html", "page.css", "maps.js", "cards.js", "page.js")
    )
    script = "\n".join([maps, cards, *more, page])
    return Template(template).substitute(
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        more_pictures=PICTURES if "parts" in head else "",
        more_scripts=SCRIPTS if "parts" in head else "",
        data=f'{script_text(head)[:-1]},"inputs":[{",".join(inputs)}]}}',
    )


def _hash(text: str) -> str:
    """As a Content-Security-Policy names an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
