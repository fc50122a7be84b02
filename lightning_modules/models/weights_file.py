"""Files of weights (``.safetensors``) that say in their header what they are the weights of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

KEY = "relprop"  # of the header's entry
PARTS = {"kind": str, "class_names": list, "task": str, "input_config": dict, "model": dict}


def save_weights(state: Mapping[str, Tensor], path: Path, about: Mapping[str, Any]) -> None:
    """Write a state dict, with ``about`` of the types of ``PARTS`` in its header."""
    header = {"format": "pt", KEY: json.dumps(about)}
    save_file({name: value.contiguous() for name, value in state.items()}, path, header)


def about_weights(path: str | Path) -> dict[str, Any] | None:
    """What the header of a file says of its weights; None for a file without it.

    ``kind``: of the classifier; ``class_names``, ``task`` and ``input_config``: its own; ``model``:
    what the backbone is made of.
    """
    if Path(path).suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get(KEY, "null"))
    except Exception:  # a damaged file, which is told where its weights are read
        return None
    fits = isinstance(about, dict) and all(
        isinstance(about.get(name), type_) for name, type_ in PARTS.items()
    )
    return about if fits else None
