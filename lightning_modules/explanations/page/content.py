"""What the page has of each input, and of all together, as JSON for its scripts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from PIL import Image, ImageOps

import relprop
from lightning_modules.explanations.entries import PageEntry, Shared
from lightning_modules.explanations.results import Result
from lightning_modules.modalities import Part
from lightning_modules.utils.names import printable, visible

NAME = 120  # characters of a name that are shown
THUMBNAIL = 64  # pixels a side
BEGINNING = 80  # characters of a text in the place of a thumbnail


def page_entry(result: Result) -> PageEntry:
    """One input on the page."""
    values = result.logits if result.activation is None else result.probability
    first = result.classes[0] if result.predicted is None else result.predicted
    summary = {
        "name": shown(result.name),
        "predicted": result.predicted,
        "label": result.label,
        "correct": result.correct,
        "value": float(values[first]),  # to sort by
    }
    parts = result.parts.items()
    detail = {
        "classes": [{"index": index, "value": float(values[index])} for index in result.classes],
        "parts": [{"source": shown(name), **part.page()} for name, part in parts],
    }
    used = [x for x in (result.predicted, result.label, *result.classes) if x is not None]
    colors = {part.shown: script_text(part.colors()) for _, part in parts}
    texts = script_text(summary), script_text(detail)
    scripts = {part.shown: part.script for _, part in parts if part.script}
    common = {name: script_text(x) for _, part in parts for name, x in part.common().items()}
    seen = glimpse(next(iter(parts))[1])
    return PageEntry(*texts, used, len(result.classes), colors, seen, scripts, common)


def glimpse(part: Part) -> np.ndarray | str:
    """A thumbnail, [THUMBNAIL, THUMBNAIL, 3], uint8; or the beginning of a text."""
    seen = part.glimpse()
    if isinstance(seen, str):
        return printable(seen[:BEGINNING])
    is_small = max(seen.size) <= THUMBNAIL
    how = Image.Resampling.NEAREST if is_small else Image.Resampling.LANCZOS
    size = (THUMBNAIL, THUMBNAIL)
    return np.asarray(ImageOps.pad(seen.convert("RGB"), size, how, color="#777"))


class Head:
    """What the scripts need to know of all inputs together, which are added one by one."""

    def __init__(self, shared: Shared, heading: str) -> None:
        self.shared, self.heading = shared, heading
        self.classes: set[int] = set()
        self.colors: dict[str, str] = {}
        self.scripts: dict[str, str] = {}
        self.common: dict[str, str] = {}
        self.width = 1

    def add(self, page: PageEntry) -> None:
        self.classes |= set(page.classes)
        self.colors |= page.colors
        self.scripts |= page.scripts
        self.common |= page.common
        self.width = max(self.width, page.width)

    def said(self) -> dict[str, Any]:
        """As the page has it."""
        names = self.shared.class_names
        return {
            "heading": shown(self.heading),
            "activation": self.shared.activation,
            "first": self.shared.first,
            "classNames": {i: shown(visible(names[i])) for i in sorted(self.classes)},
            "methods": [
                {"name": name, "signed": method.signed, "about": method.about}
                for name in self.shared.methods
                for method in (relprop.METHODS.find(name),)
            ],
            "colors": {name: json.loads(of_shown) for name, of_shown in self.colors.items()},
            "common": {name: json.loads(x) for name, x in self.common.items()},
            "widest": self.width,
        }


def shown(name: str) -> str:
    """A name as a printable line without its middle where it is long: paths differ at the end."""
    name = printable(name)
    return name if len(name) <= NAME else f"{name[: NAME // 3]}…{name[1 - 2 * NAME // 3 :]}"


def script_text(content: Any) -> str:
    """JSON in ASCII that can neither end its script element nor open a comment in it."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
