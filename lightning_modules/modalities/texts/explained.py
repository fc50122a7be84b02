"""Explanations of texts: from the relevance of word pieces to that of words."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

import relprop
from lightning_modules.data.texts.pairs import Pair
from lightning_modules.modalities.explained import Explained


@dataclass(frozen=True, kw_only=True)
class ExplainedTexts(Explained):
    """The relevance of each word piece and each word for one class a text.

    Of B texts in R rows, one each unless long texts are explained window by window.

    Attributes:
        relevance: [R, N], 0 on padding.
        special: bool [R, N], True on special tokens and padding.
        word_ids: [R, N], the word of each piece, -1 for none.
        text_of_row: [R].
        words: the character spans of each text's words.
        text: the texts; of pairs both texts, written as one.
        second: of pairs, where the second text begins in each; None of single texts.
        dropped: how many words of each text were cut off.
        target: [B].
        logits: [B, C].
    """

    special: Tensor
    word_ids: Tensor
    text_of_row: Tensor
    words: list[list[tuple[int, int]]]
    text: list[str]
    dropped: list[int]
    second: list[int] | None = None

    @classmethod
    def of_batch(cls, batch: Mapping, explanation: relprop.Explanation) -> ExplainedTexts:
        """``batch`` as of :class:`~lightning_modules.data.texts.batches.TextCollator`."""
        names = ("special", "word_ids", "text_of_row", "words", "text", "dropped")
        of_pairs = {"second": batch["second"]} if "second" in batch else {}
        return cls.of(explanation, **{name: batch[name] for name in names}, **of_pairs)

    @property
    def sample_of_row(self) -> Tensor:
        return self.text_of_row

    @cached_property
    def word_scores(self) -> Tensor:
        """The highest score of each word's pieces in any window, [B, W]; 0 where it has none."""
        scores = self._of_words(self.relevance, -torch.inf)
        return scores.masked_fill(~self.seen, 0)

    @cached_property
    def seen(self) -> Tensor:
        """False on words that were cut off and beyond the text's last word, bool [B, W]."""
        return self._of_words(torch.ones_like(self.relevance), 0) > 0

    def _of_words(self, values: Tensor, none: float) -> Tensor:
        """The highest of the ``values`` [R, N] of each word's pieces, [B, W]."""
        texts, longest = len(self.words), max(map(len, self.words), default=0)
        slots = self.text_of_row[:, None] * longest + self.word_ids
        slots = torch.where(self.word_ids < 0, texts * longest, slots)  # one more, for no word
        empty = torch.full((texts * longest + 1,), none).to(values)
        highest = empty.scatter_reduce(0, slots.flatten(), values.flatten(), "amax")
        return highest[:-1].view(texts, longest)

    @property
    def maps(self) -> Tensor:
        return self.word_scores.masked_fill(~self.seen, torch.nan)

    def words_of(self, sample: int) -> list[tuple[str, float]]:
        """The words of one text that the model saw, with their scores."""
        return [
            (self.text[sample][start:end], float(self.word_scores[sample, i]))
            for i, (start, end) in enumerate(self.words[sample])
            if self.seen[sample, i]
        ]

    def second_word(self, sample: int) -> int | None:
        """How many of :meth:`words_of` are of the first text of a pair; None of a single text."""
        if self.second is None:
            return None
        seen = zip(self.words[sample], self.seen[sample].tolist(), strict=False)
        return sum(is_seen for (start, _), is_seen in seen if start < self.second[sample])

    def made_of(
        self, sample: int, chosen: Collection[int], instead: str | None = None
    ) -> str | Pair:
        """The text or pair of the ``chosen`` words, by their numbers in :meth:`words_of`.

        ``instead``: what stands in the place of each of the others; None: nothing.
        """
        words, cut = self.words_of(sample), self.second_word(sample)
        kept = [
            (place, word if place in chosen else instead)
            for place, (word, _) in enumerate(words)
            if place in chosen or instead is not None
        ]
        if cut is None:
            return " ".join(word for _, word in kept)
        return Pair(
            " ".join(word for place, word in kept if place < cut),
            " ".join(word for place, word in kept if place >= cut),
        )
