"""The explanations of a call as one page that opens from disk: no network, no server.

Everything that comes from the user, names and texts, is in the page as JSON alone, from which
the scripts make text nodes; a Content-Security-Policy admits no other script, style or address.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from lightning_modules.explanations.results import SIGNED, Result
from lightning_modules.modalities.images import draw as render
from lightning_modules.modalities.images.draw import DIVERGING
from lightning_modules.modalities.texts import draw as render_text
from lightning_modules.utils.files import replace_file
from lightning_modules.utils.names import printable
from relprop import METHODS, methods

PIXELWISE = ("lrp",)  # methods whose maps of a picture have pixels, not patches
GRID = 32  # most rows and columns of such a map on the page
SIDE = 320  # longest side of a picture on the page, pixels
TINY = 64  # a picture no longer than this is kept to the pixel
NAME = 120  # characters of a name that are shown
STEPS = np.linspace(0, 1, 256)


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
    of_text = any(result.text is not None for result in results)
    sequential = render_text.COLORMAP(0.85 * STEPS) if of_text else render.COLORMAP(STEPS)
    return {
        "heading": _shown(heading),
        "activation": results[0].activation if results else None,
        "first": results[0].first if results else None,
        "classNames": {index: _shown(name) for index, name in used.items()},
        "methods": [
            {"name": name, "signed": name in SIGNED, "about": _about(name)}
            for name in (results[0].relevance if results else ())
        ],
        "sequential": _table(sequential),
        "diverging": _table(DIVERGING(STEPS)),
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
    if result.picture is None:
        maps = {name: _map(maps[:, None]) for name, maps in result.relevance.items()}
        return content | {"pieces": _pieces(result.text, result.words), "maps": maps}
    maps = {
        name: _pooled_map(maps) if name in PIXELWISE else _map(maps)
        for name, maps in result.relevance.items()
    }
    width, height = result.picture.size
    left, top, right, bottom = result.region
    return content | {
        "picture": _data_uri(result.picture),
        "size": [width, height],
        "tiny": max(width, height) <= TINY,
        # As shares of the picture.
        "region": [left / width, top / height, right / width, bottom / height],
        "maps": maps,
    }


def _map(maps: np.ndarray, pixels: int | None = None) -> dict:
    """Maps [T, rows, columns], each in base64: exact, NaN included, and half as long as digits.

    ``pixels``: on the side of a cell; None where the cells are the model's own patches.
    """
    values = [base64.b64encode(x.astype("<f4").tobytes()).decode() for x in maps]
    return {"shape": maps.shape[1:], "values": values, "pixels": pixels}


def _pooled_map(maps: np.ndarray) -> dict:
    """Maps [T, H, W] of pixels as means over squares, at most ``GRID`` a side."""
    side = math.ceil(max(maps.shape[1:]) / GRID)
    shape = [math.ceil(length / side) for length in maps.shape[1:]]
    return _map(F.adaptive_avg_pool2d(torch.tensor(maps), shape).numpy(), side)


def _pieces(text: str, words: Sequence[tuple[int, int]]) -> list[str]:
    """The text cut at both ends of every word, so that every second piece is a word."""
    cuts = [0, *(cut for word in words for cut in word), len(text)]
    return [text[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def _data_uri(picture: Image.Image) -> str:
    """Exact where it is so small that its pixels are to be seen."""
    tiny = max(picture.size) <= TINY
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "PNG" if tiny else "JPEG", quality=85)
    return f"data:image/{'png' if tiny else 'jpeg'};base64," + base64.b64encode(
        file.getvalue()
    ).decode("ascii")


def _table(colors: np.ndarray) -> list[list[int]]:
    """Colours [N, 4], 0..1, as N times red, green and blue, 0..255."""
    return (255 * colors[:, :3]).round().astype(int).tolist()


def _about(method: str) -> str:
    """What the method is, in a line."""
    function = vars(methods).get(method) if method in METHODS else None
    return (function.__doc__ or "").partition("\n")[0] if function else ""


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
