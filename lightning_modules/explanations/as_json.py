"""explanations.json: all inputs as text, written one after another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

import numpy as np

from lightning_modules.explanations.entries import Entries, Shared
from lightning_modules.explanations.results import Result
from lightning_modules.utils.files import replace_file

VERSION = 1  # of what docs/explain.md describes


def json_of(result: Result) -> str:
    """One input, as JSON; of several sources each has an entry of its own in ``sources``."""
    entry = {
        "name": result.name,
        "predicted": result.predicted,
        "label": result.label,
        "logit": result.logits.tolist(),
        "probability": None if result.activation is None else result.probability.tolist(),
        "classes": result.classes,
    }
    parts = {
        name: {
            "kind": part.kind,
            "axes": ["class", *part.modality.axes],
            "relevance": {method: numbers(maps) for method, maps in part.relevance.items()},
            **part.json(),
        }
        for name, part in result.parts.items()
    }
    return text_of(entry | (next(iter(parts.values())) if len(parts) == 1 else {"sources": parts}))


def numbers(values: np.ndarray) -> Any:
    """Nested lists of all the digits that a float32 has, null for what is no number."""
    if values.ndim:
        return [numbers(row) for row in values]
    return float(f"{values:.8g}") if np.isfinite(values) else None


def text_of(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def write_json(entries: Entries, shared: Shared, about: dict[str, Any], folder: Path) -> Path:
    """``explanations.json``; see docs/explain.md."""
    path = folder / "explanations.json"
    head = {
        "version": VERSION,
        **about,
        "class_names": list(shared.class_names),
        "activation": shared.activation,
        "inputs": [],
    }

    def write(file: IO[bytes]) -> None:
        before, after = text_of(head)[:-2], "]}"
        for entry in entries:
            file.write((before + entry.json).encode("utf-8", errors="replace"))
            before = ", "
        file.write(after.encode())

    replace_file(path, write)
    return path
