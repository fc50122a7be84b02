"""From texts to batches: words, tokens, and which token is of which word."""

import re

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from lightning_modules.data.texts.pairs import Pair

Span = tuple[int, int]  # characters start, ..., end - 1 of a text


def find_words(text: str) -> list[Span]:
    """The spans of a text's words: what stands between white space."""
    return [match.span() for match in re.finditer(r"\S+", text)]


class TextCollator:
    """Makes a batch of B items, in R rows of N tokens; W is the largest number of words of a text.

    A row is a text. One of more than `max_length` tokens loses its end, or, if `overlap` is given,
    is cut into windows, each a row: R > B. Every row ends in [SEP]. Of a pair of texts the longer
    one loses its end.

    The batch is a dict:
        input_ids, attention_mask: long [R, N], padded on the right to the longest row; and
            whatever else the tokenizer makes for its models, as token_type_ids
        text_of_row: long [R], which text a row is of
        label: long [B], or float [B, C]
        special: bool [R, N], True on special tokens and padding
        word_ids: long [R, N], which word of its text a token is of; -1 on special tokens and
            padding, and on the white space that some tokenizers have tokens for
        words: B lists of the (start, end) of all words of the text, also of those truncated
        dropped: B ints, how many words lost some or all of their tokens
        text: B strings
        second: B ints, where in `text` the second text of a pair begins, and token_type_ids,
            long [R, N], 1 on the second text, as models know it; only of pairs
        rationale: bool [B, W], the words that overlap a span of the item's rationale, False on
            padding; only where an item has a rationale
        has_rationale: bool [B], only where some items have none; their row is False everywhere
        flipped_word: long [B], the word that the item's `flipped` is; only where every item has it

    Args:
        tokenizer: of the texts.
        max_length: tokens of a row at most, special ones included.
        overlap: tokens that a window shares with the one before it. None: no windows.
        padding: True, or "max_length": every row has that many tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
        overlap: int | None = None,
        padding: bool | str = True,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.overlap = overlap
        self.padding = padding

    def __call__(self, items: list[dict]) -> dict[str, Tensor | list]:
        texts = [content_of(item) for item in items]
        words = [find_words(str(text)) for text in texts]
        batch = self.rows(texts, words)
        batch |= {"label": torch.tensor([item["label"] for item in items])}
        known = [item["rationale"] is not None for item in items]
        if any(known):
            marked = [
                torch.from_numpy(overlapping(spans, item["rationale"] or []))
                for spans, item in zip(words, items, strict=True)
            ]
            batch["rationale"] = torch.nn.utils.rnn.pad_sequence(marked, batch_first=True)
        if any(known) and not all(known):
            batch["has_rationale"] = torch.tensor(known)
        if all("flipped" in item for item in items):
            batch["flipped_word"] = torch.tensor(
                [
                    overlapping(spans, [item["flipped"]]).argmax()
                    for spans, item in zip(words, items, strict=True)
                ]
            )
        return batch

    def rows(
        self, texts: list[str] | list[Pair], words: list[list[Span]]
    ) -> dict[str, Tensor | list]:
        """What of a batch needs no more than the texts and the spans of their words."""
        if texts and isinstance(texts[0], Pair):
            return self.rows_of_pairs(texts, words)
        encoding = self.tokenizer(
            texts,
            padding=self.padding,
            truncation=True,
            max_length=self.max_length,
            stride=self.overlap or 0,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_tensors="np",
        )
        # A row a text, each followed by rows of what did not fit into it.
        text_of_row = encoding["overflow_to_sample_mapping"]
        kept = np.arange(len(text_of_row))
        if self.overlap is None:
            kept = np.unique(text_of_row, return_index=True)[1]
        special = encoding["special_tokens_mask"].astype(bool)
        word_ids = np.stack(
            [
                words_of_tokens(offsets, words[text])
                for offsets, text in zip(encoding["offset_mapping"], text_of_row, strict=True)
            ]
        )
        cut = [set() for _ in texts]
        for row in set(range(len(text_of_row))).difference(kept):
            cut[text_of_row[row]].update(word_ids[row].tolist())
        inputs = self.tokenizer.model_input_names
        return {name: torch.from_numpy(encoding[name][kept]) for name in inputs} | {
            "text_of_row": torch.from_numpy(text_of_row[kept]),
            "special": torch.from_numpy(special[kept]),
            "word_ids": torch.from_numpy(word_ids[kept]),
            "words": words,
            "dropped": [len(of_text - {-1}) for of_text in cut],
            "text": texts,
        }

    def rows_of_pairs(self, pairs: list[Pair], words: list[list[Span]]) -> dict[str, Tensor | list]:
        """A row a pair. Spans are in both texts, written as one."""
        encoding = self.tokenizer(
            [pair.first for pair in pairs],
            [pair.second for pair in pairs],
            padding=self.padding,
            truncation=True,
            max_length=self.max_length,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_token_type_ids=True,
            return_tensors="np",
        )
        word_ids, dropped = [], []
        for row, (pair, spans) in enumerate(zip(pairs, words, strict=True)):
            offsets, of_text = encoding["offset_mapping"][row], encoding.sequence_ids(row)
            is_second = np.array([text == 1 for text in of_text])
            offsets = offsets + pair.start * is_second[:, None]
            word_ids.append(words_of_tokens(offsets, spans))
            length = encoding["attention_mask"][row].sum()
            ends = offsets[~is_second, 1].max(initial=0), offsets[is_second, 1].max(initial=0)
            cut = sum(end > ends[start >= pair.start] for start, end in spans)
            dropped.append(cut if length >= self.max_length else 0)
        inputs = dict.fromkeys([*self.tokenizer.model_input_names, "token_type_ids"])
        return {name: torch.from_numpy(encoding[name]) for name in inputs} | {
            "text_of_row": torch.arange(len(pairs)),
            "special": torch.from_numpy(encoding["special_tokens_mask"].astype(bool)),
            "word_ids": torch.from_numpy(np.stack(word_ids)),
            "words": words,
            "dropped": dropped,
            "text": [str(pair) for pair in pairs],
            "second": [pair.start for pair in pairs],
        }


def content_of(item: dict) -> str | Pair:
    """The text of an item, or its two texts."""
    return Pair.at(item["text"], item["second"]) if "second" in item else item["text"]


def words_of_tokens(offsets: np.ndarray, words: list[Span]) -> np.ndarray:
    """Which word each token is of, -1 for none: int64 [N].

    A token may begin with the white space before its word, as SentencePiece's do. Special tokens
    and padding have the span (0, 0), which is of no word.

    Args:
        offsets: spans of the tokens, [N, 2].
        words: spans of the words.
    """
    starts, ends = np.array([*words, (np.inf, np.inf)]).T  # after the last word, one never reached
    candidates = np.searchsorted(ends, offsets[:, 0], side="right")
    return np.where(starts[candidates] < offsets[:, 1], candidates, -1)


def overlapping(words: list[Span], spans: list[Span]) -> np.ndarray:
    """Which words share a character with one of the spans: bool [number of words]."""
    words, spans = (np.array(value, dtype=int).reshape(-1, 2) for value in (words, spans))
    starts_before_end = words[:, None, 0] < spans[:, 1]
    ends_after_start = words[:, None, 1] > spans[:, 0]
    return (starts_before_end & ends_after_start).any(axis=1)
