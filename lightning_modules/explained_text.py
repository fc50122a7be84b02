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

    ``relevance`` [B, N], 0 on padding; ``special`` [B, N], True on special tokens and padding;
    ``word_ids`` [B, N], the word of each piece, -1 for none; ``words``, the character spans of each
    text's words; ``word_scores`` [B, W], the highest score of each word's pieces, 0 where
    truncation left none; ``seen`` [B, W], False there and beyond the text's last word; ``text``,
    ``dropped`` (words cut off), ``target`` [B], ``logits`` [B, C].
    """

    relevance: Tensor
    target: Tensor
    logits: Tensor
    special: Tensor
    word_ids: Tensor
    word_scores: Tensor
    seen: Tensor
    words: list[list[tuple[int, int]]]
    text: list[str]
    dropped: list[int]

    @staticmethod
    def of(explanation: Explanation, relevance: Tensor, batch: Mapping) -> ExplainedTexts:
        count = max((len(words) for words in batch["words"]), default=0)
        scores, seen = word_scores(relevance, batch["word_ids"], count)
        return ExplainedTexts(
            relevance,
            explanation.target,
            explanation.logits,
            batch["special"],
            batch["word_ids"],
            scores,
            seen,
            batch["words"],
            batch["text"],
            batch["dropped"],
        )

    def words_of(self, sample: int) -> list[tuple[str, float]]:
        """The words of one text that the model saw, with their scores."""
        return [
            (self.text[sample][start:end], float(self.word_scores[sample, i]))
            for i, (start, end) in enumerate(self.words[sample])
            if self.seen[sample, i]
        ]


def word_scores(relevance: Tensor, word_ids: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Highest score of each word's pieces, [B, ``count``], and which words have any piece.

    ``relevance`` [B, N]; ``word_ids`` [B, N], -1 for pieces of no word.
    """
    lowest = torch.full((len(relevance), count + 1), -torch.inf).to(relevance)
    slots = torch.where(word_ids < 0, count, word_ids)
    scores = lowest.scatter_reduce(1, slots, relevance, "amax")[:, :count]
    seen = scores > -torch.inf
    return scores.masked_fill(~seen, 0), seen
