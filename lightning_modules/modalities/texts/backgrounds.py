"""Rationales of texts among the words of other texts, without those texts' own rationales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from lightning_modules.data.texts.pairs import Pair


@dataclass(frozen=True)
class Parted:
    """The words of a text that a model saw.

    Attributes:
        words: in their order.
        named: which of them are of the rationale.
        cut: of a pair, how many are of its first text; None of a single text.
    """

    words: list[str]
    named: list[bool]
    cut: int | None = None

    @property
    def others(self) -> list[str]:
        """The words outside the rationale, the second half of them first.

        Moved so they differ from the text that they are put into, be it their own: to break their
        order is a part of what is done to a text, and a control without it would be empty.
        """
        outside = [
            word for word, is_named in zip(self.words, self.named, strict=True) if not is_named
        ]
        half = len(outside) // 2
        return outside[half:] + outside[:half]

    @property
    def places(self) -> set[int]:
        """Where the rationale stands."""
        return {place for place, is_named in enumerate(self.named) if is_named}

    @property
    def has_both(self) -> bool:
        """True if there is a rationale, and words outside it."""
        return any(self.named) and not all(self.named)

    def among(self, other: Parted) -> str | Pair:
        """The rationale in its place, among the words outside the other's rationale.

        These stand one for one in the places of those that were there, repeated if they are fewer.
        """
        outside = cycle(other.others or [""])
        words = [
            word if is_named else next(outside)
            for word, is_named in zip(self.words, self.named, strict=True)
        ]
        if self.cut is None:
            return " ".join(words)
        return Pair(" ".join(words[: self.cut]), " ".join(words[self.cut :]))


def parted(batch: Mapping[str, Any]) -> list[Parted]:
    """The texts of a batch of :class:`~lightning_modules.data.texts.batches.TextCollator`."""
    found = []
    for sample, seen in enumerate(seen_words(batch)):
        text, spans = batch["text"][sample], batch["words"][sample]
        of_rationale, cut = batch["rationale"][sample].tolist(), None
        if "second" in batch:
            cut = sum(spans[place][0] < batch["second"][sample] for place in seen)
        words = [text[slice(*spans[place])] for place in seen]
        found.append(Parted(words, [of_rationale[place] for place in seen], cut))
    return found


def seen_words(batch: Mapping[str, Any]) -> list[list[int]]:
    """Of each text the words that have a token in any of its rows, in their order."""
    seen = [set() for _ in batch["text"]]
    for text, words in zip(batch["text_of_row"].tolist(), batch["word_ids"].tolist(), strict=True):
        seen[text].update(words)
    return [sorted(words - {-1}) for words in seen]
