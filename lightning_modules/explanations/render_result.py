"""A result as a picture: a row a method and a column a class, or coloured words."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import to_hex
from PIL import Image
from rich.text import Text
from torch import Tensor

from lightning_modules.explanations.results import SIGNED, Result
from lightning_modules.modalities.images.draw import Panel, colors, grid, overlay, scale, short
from lightning_modules.modalities.texts import draw as render_text
from lightning_modules.utils.names import printable

SMALLEST, LARGEST = 180, 1024  # pixels of a picture's long side, as it is shown
NAME = 60  # characters of an input's name
SHOWN = 3  # numbers in a heading


def result_picture(result: Result) -> np.ndarray:
    """[H, W, 3], uint8."""
    if result.picture is None:
        return render_text.text_picture([paragraphs(result)], heading(result))
    return image_picture(result)


def heading(result: Result) -> str:
    """The input, what the model takes it for, and what it is."""
    if result.first is None:
        parts = [class_caption(result, index) for index in result.classes[:SHOWN]]
        parts += ["…"] * (len(result.classes) > SHOWN)
    else:
        parts = [f"{class_caption(result, result.predicted)} {result.first}"]
    if result.label is not None:
        parts.append(f"{short(result.class_names[result.label])} true")
    # The end of a path says more than its beginning.
    name = result.name if len(result.name) <= NAME else "…" + result.name[1 - NAME :]
    return f"{short(name, NAME)}: {', '.join(parts)}"


def class_caption(result: Result, index: int, mark: str = "") -> str:
    """A class with its probability, or the number that the model gives."""
    name = short(result.class_names[index], 24)
    if result.activation is None:
        return f"{name} = {result.logits[index]:.4g}"
    return f"{name}{mark} p = {result.probability[index]:.2f}"


def question(result: Result, index: int, space: str = " ") -> str:
    """What a map answers. Of a number, which may be negative, it shows what makes it higher."""
    asked = "what raises" if result.activation is None else "why"
    return f"{asked}{space}{class_caption(result, index, '?')}"


# ---------------------------------------------------------------------------------- pictures


def image_picture(result: Result) -> np.ndarray:
    """Beside the picture, for each class, its heatmap over the picture and the heatmap itself."""
    width, height = result.picture.size
    zoom = min(max(1, SMALLEST / max(width, height)), LARGEST / max(width, height))
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    enlarged = result.picture.resize(
        size, Image.Resampling.NEAREST if zoom > 1 else Image.Resampling.LANCZOS
    )
    picture = np.asarray(enlarged, dtype=np.float32) / 255
    left, top, right, bottom = (round(edge * zoom) for edge in result.region)
    region = [left, top, max(right, left + 1), max(bottom, top + 1)]
    rows = []
    for method, maps in result.relevance.items():
        signed = method in SIGNED
        row = [Panel(picture, method)]
        for index, relevance in zip(result.classes, torch.from_numpy(maps), strict=True):
            wrong = result.label is not None and index != result.label
            over = draw_over(picture, relevance, region, signed)
            space = "\n" if result.activation is None else " "
            row.append(Panel(over, question(result, index, space), wrong))
            row.append(Panel(draw_alone(relevance, region, size, signed), "heatmap"))
        rows.append(row)
    signs = sorted({method in SIGNED for method in result.relevance})
    return grid(rows, heading(result), size, signs)


def draw_over(
    picture: np.ndarray, relevance: Tensor, region: list[int], signed: bool
) -> np.ndarray:
    """The picture [H, W, 3] under its heatmap, in grey where the model has not looked."""
    height, width = picture.shape[:2]
    left, top, right, bottom = region
    drawn = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2)
    smooth = F.interpolate(
        relevance[None, None], size=(bottom - top, right - left), mode="bilinear"
    )[0, 0]
    inside, within = clip(region, width, height)
    seen = torch.from_numpy(picture[inside]).permute(2, 0, 1)
    drawn[inside] = overlay(seen, smooth[within], signed)
    return drawn


def draw_alone(
    relevance: Tensor, region: list[int], size: tuple[int, int], signed: bool
) -> np.ndarray:
    """The heatmap's own values at their place in the picture; white where it has none."""
    width, height = size
    left, top, right, bottom = region
    blocks = F.interpolate(
        scale(relevance, signed)[None, None], size=(bottom - top, right - left), mode="nearest"
    )[0, 0]
    inside, within = clip(region, width, height)
    drawn = np.ones((height, width, 3), dtype=np.float32)
    drawn[inside] = colors(blocks[within], signed)
    return drawn


def clip(region: list[int], width: int, height: int) -> tuple[tuple, tuple]:
    """The part of the picture that a region covers, and the part of the region that covers it."""
    left, top, right, bottom = region
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    inside = (slice(y0, y1), slice(x0, x1))
    return inside, (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


# ------------------------------------------------------------------------------------- texts


def paragraphs(result: Result) -> list[render_text.Paragraph]:
    """The text once for each method and class."""
    words = [result.text[start:end] for start, end in result.words]
    return [
        render_text.Paragraph(
            f"{method}: {question(result, index)}",
            render_text.shares(list(zip(words, scores.tolist(), strict=True)), method in SIGNED),
            wrong=result.label is not None and index != result.label,
            signed=method in SIGNED,
        )
        for method, maps in result.relevance.items()
        for index, scores in zip(result.classes, maps, strict=True)
    ]


def terminal_text(result: Result) -> Text:
    """The coloured words for a terminal."""
    text = Text(f"{heading(result)}\n")
    for paragraph in paragraphs(result):
        text.append(f"  {paragraph.caption}\n  ", style="bold")
        for word, share in paragraph.words:
            shown = render_text.word_colors(share, paragraph.signed)
            style = "dim" if shown is None else f"{shown[1]} on {to_hex(np.array(shown[0]) / 255)}"
            text.append(printable(word), style)
            text.append(" ")
        text.append("\n")
    return text
