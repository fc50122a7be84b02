"""A text that was explained: its drawing, and what the page and files have of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from matplotlib.colors import to_hex
from rich.text import Text

from lightning_modules.data.texts.pairs import Pair
from lightning_modules.modalities.base import Part, is_signed
from lightning_modules.modalities.drawing import DIVERGING
from lightning_modules.modalities.maps import STEPS, encoded, table
from lightning_modules.modalities.texts.draw import (
    COLORMAP,
    OF_PAIR,
    Paragraph,
    shares,
    text_picture,
    word_colors,
)
from lightning_modules.utils.names import printable

if TYPE_CHECKING:
    from lightning_modules.explanations.results import Result


@dataclass(frozen=True, kw_only=True)
class TextPart(Part):
    """A text with its maps, [T, words], NaN on words that were cut off.

    Attributes:
        words: the (start, end) of the characters of each word.
        second: where the second text of a pair begins, in characters; None of a single text.
    """

    words: list[tuple[int, int]]
    second: int | None = None

    shown: ClassVar[str] = "words"

    @classmethod
    def colors(cls) -> dict[str, list[list[int]]]:
        """As :func:`word_colors`, where words are against a class as of pictures."""
        return {"sequential": table(COLORMAP(0.85 * STEPS)), "diverging": table(DIVERGING(STEPS))}

    def picture(self, result: Result) -> np.ndarray:
        """The text once for each method and class, its words coloured: [H, W, 3], uint8."""
        return text_picture([self.paragraphs(result)], result.heading)

    @property
    def second_word(self) -> int | None:
        """How many words are of the first text of a pair."""
        return None if self.second is None else sum(x < self.second for x, _ in self.words)

    def paragraphs(self, result: Result) -> list[Paragraph]:
        """The text once for each method and class."""
        words = [self.content[start:end] for start, end in self.words]
        return [
            Paragraph(
                f"{method}: {result.question(index)}",
                shares(list(zip(words, scores.tolist(), strict=True)), is_signed(method)),
                wrong=result.is_wrong(index),
                signed=is_signed(method),
                second=self.second_word,
            )
            for method, maps in self.relevance.items()
            for index, scores in zip(result.classes, maps, strict=True)
        ]

    def terminal_text(self, result: Result) -> Text:
        """The coloured words."""
        text = Text(f"{result.heading}\n")
        for paragraph in self.paragraphs(result):
            text.append(f"  {paragraph.caption}\n", style="bold")
            for called, words in paragraph.texts:
                text.append("  ")
                text.append(f"{called} " if called else "", "italic")
                for word, share in words:
                    shown = word_colors(share, paragraph.signed)
                    style = "dim"
                    if shown is not None:
                        style = f"{shown[1]} on {to_hex(np.array(shown[0]) / 255)}"
                    text.append(printable(word), style)
                    text.append(" ")
                text.append("\n")
        return text

    def json(self) -> dict[str, Any]:
        of_pair = {}
        if self.second is not None:
            pair = Pair.at(self.content, self.second)
            of_pair = {"texts": [pair.first, pair.second], "second_word": self.second_word}
        return {"text": self.content, "words": self.words, **of_pair}

    def page(self) -> dict[str, Any]:
        of_pair = {} if self.second is None else {"second": self.second_word, "called": OF_PAIR}
        return {
            **of_pair,
            "shown": self.shown,
            "pieces": pieces(self.content, self.words),
            "maps": {name: encoded(maps[:, None]) for name, maps in self.relevance.items()},
        }

    def glimpse(self) -> str:
        return self.content


def pieces(text: str, words: Sequence[tuple[int, int]]) -> list[str]:
    """The text cut at both ends of every word, so that every second piece is a word."""
    cuts = [0, *(cut for word in words for cut in word), len(text)]
    return [text[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
