"""Panels of a picture: a scene, and its map above the words that the map is of."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_modules.modalities.drawing import Panel, font, grid
from lightning_modules.modalities.images.draw import overlay
from lightning_modules.modalities.texts.draw import shares, word_colors

IMAGES = Path(__file__).parent.parent / "images"
ZOOM, STRIP, GAP = 7, 28, 9  # pixels: of a pixel, of the line of words, between words


def panel(
    pixels: Tensor,
    title: str,
    heatmap: Tensor | None = None,
    words: Sequence[tuple[str, float]] = (),
    signed: bool = False,
) -> Panel:
    """A scene [3, H, W], in grey under a heatmap [7H, 7W] if one is given, and words below it."""
    large = pixels.repeat_interleave(ZOOM, 1).repeat_interleave(ZOOM, 2)
    drawn = large.permute(1, 2, 0).numpy() if heatmap is None else overlay(large, heatmap, signed)
    return Panel(np.concatenate([drawn, _line(words, large.shape[2], signed)]), title)


def _line(words: Sequence[tuple[str, float]], width: int, signed: bool) -> np.ndarray:
    """Words on the colours of their relevance, [STRIP, width, 3]."""
    picture = Image.new("RGB", (width, STRIP), "white")
    draw, face = ImageDraw.Draw(picture), font(14)
    left = (width - sum(face.getlength(word) + GAP for word, _ in words) + GAP) / 2
    for word, share in shares(words, signed):
        background, color = word_colors(share, signed)
        right = left + face.getlength(word)
        draw.rectangle((left - 3, 5, right + 3, STRIP - 3), background)
        draw.text((left, STRIP / 2 + 1), word, color, face, anchor="lm")
        left = right + GAP
    return np.asarray(picture) / 255


def save(rows: Sequence[Sequence[Panel]], heading: str, path: Path, signed: bool = False) -> None:
    """Write rows of panels as a PNG file."""
    height, width = rows[0][0].image.shape[:2]
    picture = Image.fromarray(grid(rows, heading, (width, height), [signed]))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)
