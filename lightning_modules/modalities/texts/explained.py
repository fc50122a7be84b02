"""Explanations of texts: from the relevance of word pieces to that of words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from relprop import Explanation


@dataclass(frozen=True)
class ExplainedTexts:
    """The relevance of each word piece and each word for one class a text.

    Of B texts in R rows, one each unless long texts are explained window by window:
    ``relevance`` [R, N], 0 on padding; ``special`` [R, N], True on special tokens and padding;
    ``word_ids`` [R, N], the word of each piece, -1 for none; ``text_of_row`` [R].

    ``words``, the character spans of each text's words; ``word_scores`` [B, W], the highest score
    of each word's pieces in any window, 0 where truncation left none; ``seen`` [B, W], False there
    and beyond the text's last word; ``text``, ``dropped`` (words cut off), ``target`` [B],
    ``logits`` [B, C].
    """

    relevance: Tensor
    special: Tensor
    word_ids: Tensor
    text_of_row: Tensor
    words: list[list[tuple[int, int]]]
    word_scores: Tensor
    seen: Tensor
    text: list[str]
    dropped: list[int]
    target: Tensor
    logits: Tensor

    @staticmethod
    def of(batch: Mapping, relevance: Tensor, target: Tensor, logits: Tensor) -> ExplainedTexts:
        """``batch`` as of :class:`~lightning_modules.data.texts.batches.TextCollator`."""
        rows, words = batch["text_of_row"], batch["words"]
        longest = max((len(of_text) for of_text in words), default=0)
        scores, seen = word_scores(relevance, batch["word_ids"], rows, (len(words), longest))
        return ExplainedTexts(
            relevance,
            batch["special"],
            batch["word_ids"],
            rows,
            words,
            scores,
            seen,
            batch["text"],
            batch["dropped"],
            target,
            logits,
        )

    def words_of(self, sample: int) -> list[tuple[str, float]]:
        """The words of one text that the model saw, with their scores."""
        return [
            (self.text[sample][start:end], float(self.word_scores[sample, i]))
            for i, (start, end) in enumerate(self.words[sample])
            if self.seen[sample, i]
        ]


Explained = Explanation | ExplainedTexts


def word_scores(
    relevance: Tensor, word_ids: Tensor, text_of_row: Tensor, shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Highest score of each word's pieces, [B, W] = ``shape``, and which words have any piece.

    ``relevance``, ``word_ids`` [R, N], -1 for pieces of no word; ``text_of_row`` [R].
    """
    texts, longest = shape
    slots = text_of_row[:, None] * longest + word_ids
    slots = torch.where(word_ids < 0, texts * longest, slots)  # one more, for pieces of no word
    lowest = torch.full((texts * longest + 1,), -torch.inf).to(relevance)
    highest = lowest.scatter_reduce(0, slots.flatten(), relevance.flatten(), "amax")
    scores = highest[:-1].view(shape)
    seen = scores > -torch.inf
    return scores.masked_fill(~seen, 0), seen
