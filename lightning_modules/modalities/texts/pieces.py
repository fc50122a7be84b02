"""Texts of which only the ids of their tokens are at hand, as after somebody else's collator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

TELLING = 3  # tokens of a text that has more than its ends


def batch_of_ids(
    ids: Tensor,
    mask: Tensor | None,
    tokenizer: PreTrainedTokenizerBase | None,
    ends: Sequence[int] = (),
) -> dict[str, Any]:
    """What :class:`~.explained.ExplainedTexts` needs of a batch: words, and whose tokens are whose.

    Without a tokenizer each token is a word, and written as its number.

    Args:
        ids: [B, N].
        mask: 0 on padding, [B, N]; None: there is none.
        tokenizer: the one that made the ids.
        ends: tokens that are special at an end of a text, where there is no tokenizer.
    """
    kept = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    special = ~kept
    special |= common_ends(ids, kept, ends) if tokenizer is None else specials(ids, tokenizer)
    word_ids, texts, words = torch.full_like(ids, -1, dtype=torch.long), [], []
    for row, numbers in enumerate(ids.tolist()):
        text, spans, before = "", [], None
        for place, number in enumerate(numbers):
            if special[row, place]:
                before = None  # a word does not go on behind it
                continue
            piece, begins = written(number, before, tokenizer)
            if begins or not spans:
                start = len(text) + bool(spans)
                text += " " * bool(spans)
                spans.append((start, start))
            text += piece
            spans[-1] = (spans[-1][0], len(text))
            word_ids[row, place], before = len(spans) - 1, number
        texts.append(text)
        words.append(spans)
    return {
        "text_of_row": torch.arange(len(ids)),
        "special": special,
        "word_ids": word_ids,
        "words": words,
        "dropped": [0] * len(ids),
        "text": texts,
    }


def specials(ids: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """True on the tokenizer's special tokens, bool [B, N]; a word that it does not know is none."""
    known = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return torch.isin(ids, torch.tensor(sorted(known), dtype=ids.dtype))


def common_ends(ids: Tensor, kept: Tensor, known: Sequence[int] = ()) -> Tensor:
    """True on first and last tokens that all texts share, as [CLS] and [SEP], bool [B, N].

    Short texts say nothing about what is shared. ``known``: tokens that are
    special at an end in any case.
    """
    special, rows, last = torch.zeros_like(kept), torch.arange(len(ids)), ids.shape[1] - 1
    telling = kept.sum(dim=1) >= TELLING
    for places in (kept.int().argmax(dim=1), last - kept.flip(1).int().argmax(dim=1)):
        ends = ids[rows, places]
        shared = ends[telling].unique()
        alike = shared.tolist() if telling.sum() > 1 and len(shared) == 1 else []
        found = torch.isin(ends, torch.tensor([*alike, *known], dtype=ids.dtype))
        special[rows, places] |= found
    return special


def written(
    number: int, before: int | None, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[str, bool]:
    """How a token is written behind the one before it, and whether it begins a word."""
    if tokenizer is None:
        return str(number), True
    context = [] if before is None else [before]
    options = {"clean_up_tokenization_spaces": False}
    piece = tokenizer.decode([*context, number], **options)
    piece = piece[len(tokenizer.decode(context, **options)) if context else 0 :]
    return piece.strip(), not context or piece[:1].isspace()
