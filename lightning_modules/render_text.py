"""Relevance of words as pictures, and as text that can be selected."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lightning_modules.explained_text import ExplainedTexts
from lightning_modules.render import WRONG, short

COLORMAP = matplotlib.colormaps["Oranges"]  # one hue, dark text stays readable on it
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
SHOWN = 6  # texts in a picture
MOST_WORDS = 120  # of one text
WIDTH, MARGIN, LINE, SIZE = 720, 16, 24, 14  # pixels


def text_picture(
    explanations: Sequence[ExplainedTexts],
    titles: Sequence[str],
    class_names: Sequence[str],
    heading: str,
    labels: Tensor | None = None,
) -> np.ndarray:
    """The words of each text on their relevance, once for each explanation: [H, W, 3], uint8.

    ``titles``, one an explanation, have ``{}`` for the class; where the class is not the one of
    ``labels`` [B], the title is red.
    """
    font = ImageFont.truetype(FONTS / "DejaVuSans.ttf", SIZE)
    bold = ImageFont.truetype(FONTS / "DejaVuSans-Bold.ttf", SIZE)
    boxes = [(MARGIN, MARGIN, heading, bold, "black", None)]  # x, y, text, font, color, background
    y = MARGIN + 2 * LINE
    for i in range(min(SHOWN, len(explanations[0].text))):
        for explanation, title in zip(explanations, titles, strict=True):
            wrong = labels is not None and bool(explanation.target[i] != labels[i])
            color = WRONG if wrong else "black"
            boxes.append(
                (MARGIN, y, caption(explanation, i, title, class_names), font, color, None)
            )
            laid_out, y = _lay_out(explanation, i, font, y + LINE)
            boxes += laid_out
            y += LINE // 2
        y += LINE // 2
    picture = Image.new("RGB", (WIDTH, y + 2 * LINE), "white")
    draw = ImageDraw.Draw(picture)
    for x, top, text, face, color, background in boxes:
        if background is not None:
            area = (x - 2, top - 2, x + face.getlength(text) + 2, top + LINE - 5)
            draw.rectangle(area, fill=background)
        draw.text((x, top), text, font=face, fill=color)
    _draw_scale(draw, font, y)
    return np.asarray(picture)


def caption(
    explanation: ExplainedTexts, sample: int, title: str, class_names: Sequence[str]
) -> str:
    """The class explained and its probability."""
    target = explanation.target[sample]
    probability = explanation.logits[sample].softmax(dim=-1)[target]
    return f"{title.format(short(class_names[target]))}, p = {probability:.2f}"


def shares(explanation: ExplainedTexts, sample: int) -> list[tuple[str, float]]:
    """The words of a text that are shown, with their relevance as a share of the highest, 0..1."""
    words = explanation.words_of(sample)
    highest = max((score for _, score in words), default=0)
    scaled = [(w, max(0.0, score / highest) if highest > 0 else 0.0) for w, score in words]
    return scaled[:MOST_WORDS] + ([("…", 0.0)] if len(scaled) > MOST_WORDS else [])


def _lay_out(explanation: ExplainedTexts, sample: int, font, y: int) -> tuple[list, int]:
    """Words in lines from ``y`` on; the y below them."""
    boxes, x = [], MARGIN
    for word, share in shares(explanation, sample):
        word = short(word, 60)
        length = font.getlength(word)
        if x > MARGIN and x + length > WIDTH - MARGIN:
            x, y = MARGIN, y + LINE
        background = tuple(round(255 * c) for c in COLORMAP(0.85 * share)[:3])
        boxes.append((x, y, word, font, "white" if share > 0.75 else "black", background))
        x += length + font.getlength(" ") + 3
    return boxes, y + LINE


def _draw_scale(draw: ImageDraw.ImageDraw, font, y: int) -> None:
    left = MARGIN + font.getlength("least ") + 4
    draw.text((MARGIN, y), "least ", font=font, fill="black")
    for step in range(100):
        color = tuple(round(255 * c) for c in COLORMAP(0.85 * step / 99)[:3])
        draw.line((left + step, y, left + step, y + SIZE), fill=color)
    draw.text((left + 108, y), "most relevant word of its text", font=font, fill="black")


def markdown(
    explanations: Sequence[ExplainedTexts], titles: Sequence[str], class_names: Sequence[str]
) -> str:
    """The same as text for TensorBoard: words of at least half the highest score in bold,
    of at least a quarter in italics, everything escaped."""
    lines = []
    for i in range(min(SHOWN, len(explanations[0].text))):
        for explanation, title in zip(explanations, titles, strict=True):
            words = " ".join(_emphasised(w, share) for w, share in shares(explanation, i))
            lines.append(f"{escape(caption(explanation, i, title, class_names))}:\n\n> {words}\n")
    return "\n".join(lines)


def _emphasised(word: str, share: float) -> str:
    mark = "**" if share >= 0.5 else "*" if share >= 0.25 else ""
    return f"{mark}{escape(word)}{mark}"


def escape(text: str) -> str:
    """Text that neither Markdown nor HTML takes for more than text."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~])", r"\\\1", html.escape(printable))
