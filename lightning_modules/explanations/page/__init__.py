"""The explanations of a call as one page that opens from disk: no network, no server.

Everything that comes from the user, names and texts, is in the page as JSON alone, from which
the scripts make text nodes; a Content-Security-Policy admits no other script, style or address.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

import relprop
from lightning_modules.explanations.results import Result
from lightning_modules.utils.files import replace_file
from lightning_modules.utils.names import printable, visible

NAME = 120  # characters of a name that are shown


def write_page(results: Sequence[Result], path: Path, heading: str) -> None:
    """All ``results`` of a call, which share model and methods, as a page with ``heading``."""
    files = resources.files(__name__)
    template, style, *scripts = (
        files.joinpath(name).read_text("utf-8")
        for name in ("page.html", "page.css", "maps.js", "page.js")
    )
    script = "\n".join(scripts)
    page = Template(template).substitute(
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=_json(_content(results, heading)),
    )
    replace_file(path, lambda file: file.write(page.encode()))


def _content(results: Sequence[Result], heading: str) -> dict:
    """What the scripts show."""
    used = {
        index: result.class_names[index]
        for result in results
        for index in (result.predicted, result.label, *result.classes)
        if index is not None
    }
    return {
        "heading": _shown(heading),
        "activation": results[0].activation if results else None,
        "first": results[0].first if results else None,
        "classNames": {index: _shown(visible(name)) for index, name in used.items()},
        "methods": [
            {"name": name, "signed": method.signed, "about": method.about}
            for name in (results[0].methods if results else ())
            for method in (relprop.METHODS.find(name),)
        ],
        "colors": {
            part.shown: part.colors() for result in results for part in result.parts.values()
        },
        "inputs": [_input(result) for result in results],
    }


def _input(result: Result) -> dict:
    values = result.logits if result.activation is None else result.probability
    first = result.classes[0] if result.predicted is None else result.predicted
    content = {
        "name": _shown(result.name),
        "predicted": result.predicted,
        "label": result.label,
        "correct": result.correct,
        "value": float(values[first]),  # to sort by
        "classes": [{"index": index, "value": float(values[index])} for index in result.classes],
    }
    parts = result.parts.items()
    return content | {"parts": [{"source": _shown(name), **part.page()} for name, part in parts]}


def _shown(name: str) -> str:
    """A name as a printable line without its middle where it is long: paths differ at the end."""
    name = printable(name)
    return name if len(name) <= NAME else f"{name[: NAME // 3]}…{name[1 - 2 * NAME // 3 :]}"


def _json(content: dict) -> str:
    """JSON in ASCII that can neither end its script element nor open a comment in it."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _hash(text: str) -> str:
    """As a Content-Security-Policy names an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
