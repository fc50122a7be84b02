"""Relevance of words as pictures, and as text that can be selected."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from lightning_modules.modalities.drawing import SHOWN, WRONG, font, short
from lightning_modules.modalities.texts.explained import ExplainedTexts
from lightning_modules.tasks import Caption
from lightning_modules.utils.names import printable

COLORMAP = matplotlib.colormaps["Oranges"]  # one hue, dark text stays readable on it
DIVERGING = matplotlib.colormaps["PuOr_r"]  # purple: against the class; its orange half is alike
MOST_WORDS = 120  # of a watched text
OF_PAIR = ("first", "second")  # what the texts of a pair are called
WIDTH, MARGIN, LINE, SIZE = 720, 16, 24, 14  # pixels
INDENT = 64  # of the words of a pair, beside what their text is called


@dataclass(frozen=True)
class Paragraph:
    """A text under a caption, each word with its share of the highest relevance.

    ``words``: 0..1, or -1..1 if ``signed``; NaN on words that the model has not seen. ``wrong``:
    the model is mistaken, the caption is set apart. ``second``: how many words are of the first
    text of a pair.
    """

    caption: str
    words: list[tuple[str, float]]
    wrong: bool = False
    signed: bool = False
    second: int | None = None

    @property
    def texts(self) -> list[tuple[str, list[tuple[str, float]]]]:
        """The words of each text, under what it is called: nothing, if it is the only one."""
        if self.second is None:
            return [("", self.words)]
        parts = self.words[: self.second], self.words[self.second :]
        return [(f"{name}:", words) for name, words in zip(OF_PAIR, parts, strict=True)]

    def shortened(self) -> Paragraph:
        """The same with at most ``MOST_WORDS`` words of each text."""
        parts = [
            words[:MOST_WORDS] + ([("…", 0.0)] if len(words) > MOST_WORDS else [])
            for _, words in self.texts
        ]
        second = None if self.second is None else len(parts[0])
        return replace(self, words=[word for part in parts for word in part], second=second)


def sample_paragraphs(
    explanations: Sequence[ExplainedTexts],
    captions: Sequence[Sequence[Caption | None]],
    signed: bool = False,
) -> list[list[Paragraph]]:
    """The first texts of a batch, each once for each explanation that has a caption for it."""
    return [
        [
            Paragraph(
                str(of_texts[i]),
                shares(explanation.words_of(i), signed),
                of_texts[i].wrong,
                signed,
                explanation.second_word(i),
            ).shortened()
            for explanation, of_texts in zip(explanations, captions, strict=True)
            if of_texts[i] is not None
        ]
        for i in range(min(SHOWN, len(explanations[0].text)))
    ]


def shares(words: Sequence[tuple[str, float]], signed: bool = False) -> list[tuple[str, float]]:
    """Words with their relevance as a share of the highest: 0..1, or of the greatest, -1..1."""
    most = max((abs(score) if signed else score for _, score in words if score == score), default=0)
    if most <= 0:
        return [(word, 0 * score) for word, score in words]
    return [
        (word, score / most if signed else max(score / most, 0 * score)) for word, score in words
    ]


def word_colors(share: float, signed: bool) -> tuple[tuple[int, int, int], str] | None:
    """Background and text colour of a word; None for one that the model has not seen."""
    if math.isnan(share):
        return None
    color = DIVERGING((0.9 * share + 1) / 2) if signed else COLORMAP(0.85 * share)
    red, green, blue = (round(255 * c) for c in color[:3])
    return (red, green, blue), "white" if abs(share) > 0.75 else "black"


def text_picture(texts: Sequence[Sequence[Paragraph]], heading: str) -> np.ndarray:
    """The paragraphs of each text one under another: [H, W, 3], uint8."""
    plain, bold = font(SIZE), font(SIZE, "DejaVuSans-Bold")
    boxes = [(MARGIN, MARGIN, heading, bold, "black", None)]  # x, y, text, font, color, background
    y = MARGIN + 2 * LINE
    for paragraphs in texts:
        for paragraph in paragraphs:
            color = WRONG if paragraph.wrong else "black"
            boxes.append((MARGIN, y, paragraph.caption, plain, color, None))
            laid_out, y = _lay_out(paragraph, plain, y + LINE)
            boxes += laid_out
            y += LINE // 2
        y += LINE // 2
    signs = {paragraph.signed for paragraphs in texts for paragraph in paragraphs}
    picture = Image.new("RGB", (WIDTH, y + 2 * LINE * len(signs)), "white")
    draw = ImageDraw.Draw(picture)
    for x, top, text, face, color, background in boxes:
        if background is not None:
            area = (x - 2, top - 2, x + face.getlength(text) + 2, top + LINE - 5)
            draw.rectangle(area, fill=background)
        draw.text((x, top), text, font=face, fill=color)
    for signed in sorted(signs):
        _draw_scale(draw, plain, y, signed)
        y += LINE
    return np.asarray(picture)


def _lay_out(paragraph: Paragraph, face, y: int) -> tuple[list, int]:
    """Words in lines from ``y`` on; the y below them."""
    boxes = []
    for called, words in paragraph.texts:
        x = MARGIN
        if called:
            boxes.append((x, y, called, face, "#777777", None))
            x += INDENT
        for word, share in words:
            word = short(word, 60)
            length = face.getlength(word)
            if x > MARGIN and x + length > WIDTH - MARGIN:
                x, y = MARGIN + (INDENT if called else 0), y + LINE
            background, color = word_colors(share, paragraph.signed) or (None, "#aaaaaa")
            boxes.append((x, y, word, face, color, background))
            x += length + face.getlength(" ") + 3
        y += LINE
    return boxes, y


def _draw_scale(draw: ImageDraw.ImageDraw, face, y: int, signed: bool) -> None:
    low, high = ("against", "for it") if signed else ("least", "most relevant of its text")
    left = MARGIN + face.getlength(f"{low} ") + 4
    draw.text((MARGIN, y), low, font=face, fill="black")
    for step in range(100):
        share = step / 99
        color, _ = word_colors(2 * share - 1 if signed else share, signed)
        draw.line((left + step, y, left + step, y + SIZE), fill=color)
    draw.text((left + 108, y), high, font=face, fill="black")


def markdown(texts: Sequence[Sequence[Paragraph]]) -> str:
    """The same as text for TensorBoard, everything escaped.

    Words of at least half the strongest relevance are bold, of at least a quarter in italics; those
    against the class begin with a minus sign.
    """
    return "\n".join(
        f"{escape(paragraph.caption)}:\n\n> "
        + "\n>\n> ".join(
            " ".join([*filter(None, [called]), *(_emphasised(*word) for word in words)])
            for called, words in paragraph.texts
        )
        + "\n"
        for paragraphs in texts
        for paragraph in paragraphs
    )


def _emphasised(word: str, share: float) -> str:
    mark = "**" if abs(share) >= 0.5 else "*" if abs(share) >= 0.25 else ""
    sign = "−" if mark and share < 0 else ""
    return f"{mark}{sign}{escape(word)}{mark}"


def escape(text: str) -> str:
    """Text that neither Markdown nor HTML takes for more than text."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~])", r"\\\1", html.escape(printable(text)))
