"""Results in files: pictures, numbers as npz and json, one page for all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lightning_modules.explanations.page import write_page
from lightning_modules.explanations.results import Result
from lightning_modules.utils.files import replace_file
from lightning_modules.utils.names import slug

FORMATS = ("png", "html", "npz", "json")
JSON_VERSION = 1  # of what docs/explain.md describes


def write_png(result: Result, folder: Path) -> Path:
    """The picture of one result."""
    path = folder / f"{slug(result.name)}.png"
    image = Image.fromarray(result.picture())
    replace_file(path, lambda file: image.save(file, format="png"))
    return path


def as_json(results: Sequence[Result], about: dict[str, Any]) -> dict[str, Any]:
    """What ``explanations.json`` holds; see docs/explain.md."""
    return {
        "version": JSON_VERSION,
        **about,
        "class_names": results[0].class_names if results else [],
        "activation": results[0].activation if results else None,
        "inputs": [json_of(result) for result in results],
    }


def json_of(result: Result) -> dict[str, Any]:
    """One input; of several sources each has an entry of its own in ``sources``."""
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
    return entry | (next(iter(parts.values())) if len(parts) == 1 else {"sources": parts})


def numbers(values: np.ndarray) -> Any:
    """Nested lists of all the digits that a float32 has, null for what is no number."""
    if values.ndim:
        return [numbers(row) for row in values]
    return float(f"{values:.8g}") if np.isfinite(values) else None


def write_json(results: Sequence[Result], about: dict[str, Any], folder: Path) -> Path:
    path = folder / "explanations.json"
    text = json.dumps(as_json(results, about), ensure_ascii=False, allow_nan=False)
    replace_file(path, lambda file: file.write(text.encode("utf-8", errors="replace")))
    return path


def write_npz(results: Sequence[Result], folder: Path) -> Path:
    """Arrays over all inputs, padded with NaN; ``axes/<array>`` names their axes."""
    path = folder / "explanations.npz"
    arrays = {
        "name": np.array([result.name for result in results]),
        "class_name": np.array(results[0].class_names),
        "logit": np.stack([result.logits for result in results]),
        "label": np.array([-1 if r.label is None else r.label for r in results]),
        "class": padded([np.array(result.classes) for result in results], -1),
    }
    axes = {
        "name": ["input"],
        "class_name": ["class"],
        "logit": ["input", "class"],
        "label": ["input"],
        "class": ["input", "explained"],
    }
    if results[0].activation is not None:
        arrays["probability"] = np.stack([result.probability for result in results])
        axes["probability"] = ["input", "class"]
    for source, part in results[0].parts.items():
        prefix = f"relevance/{source}" if len(results[0].parts) > 1 else "relevance"
        for method in part.relevance:
            maps = [result.parts[source].relevance[method] for result in results]
            arrays[f"{prefix}/{method}"] = padded(maps, np.nan)
            axes[f"{prefix}/{method}"] = ["input", "explained", *part.modality.axes]
    arrays |= {f"axes/{name}": np.array(of_array) for name, of_array in axes.items()}
    replace_file(path, lambda file: np.savez_compressed(file, **arrays))
    return path


def padded(arrays: Sequence[np.ndarray], value: float) -> np.ndarray:
    """Arrays of as many axes, each as long as the longest, stacked."""
    shape = np.max([array.shape for array in arrays], axis=0)
    result = np.full((len(arrays), *shape), value, dtype=arrays[0].dtype)
    for target, array in zip(result, arrays, strict=True):
        target[tuple(map(slice, array.shape))] = array
    return result


def write_all(
    results: Sequence[Result], formats: Sequence[str], about: dict[str, Any], folder: Path
) -> list[Path]:
    """What is one file for all results."""
    written = []
    if "html" in formats:
        written.append(folder / "explanations.html")
        write_page(results, written[-1], about["title"])
    if "npz" in formats:
        written.append(write_npz(results, folder))
    if "json" in formats:
        written.append(write_json(results, about, folder))
    return written
