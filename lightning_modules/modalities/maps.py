"""Maps and colours as the page has them."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

STEPS = np.linspace(0, 1, 256)  # of a scale of colours


def encoded(maps: np.ndarray, pixels: int | None = None) -> dict[str, Any]:
    """Maps [T, rows, columns], each in base64: exact, NaN included, and half as long as digits.

    ``pixels``: on the side of a cell; None where the cells are the model's own patches.
    """
    values = [base64.b64encode(x.astype("<f4").tobytes()).decode() for x in maps]
    return {"shape": maps.shape[1:], "values": values, "pixels": pixels}


def table(colors: np.ndarray) -> list[list[int]]:
    """Colours [N, 4], 0..1, as N times red, green and blue, 0..255."""
    return (255 * colors[:, :3]).round().astype(int).tolist()
