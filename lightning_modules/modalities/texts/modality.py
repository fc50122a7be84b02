"""Texts: how they are read, explained, drawn and watched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

import relprop
from lightning_modules.data.texts.batches import TextCollator, find_words
from lightning_modules.data.texts.files import read_text
from lightning_modules.data.texts.pairs import Pair
from lightning_modules.data.texts.tokenizers import tokenizer_from_config
from lightning_modules.metrics import TokenF1
from lightning_modules.modalities.base import MODALITIES, Modality
from lightning_modules.modalities.texts.backgrounds import parted, seen_words
from lightning_modules.modalities.texts.draw import markdown, sample_paragraphs, text_picture
from lightning_modules.modalities.texts.explained import ExplainedTexts
from lightning_modules.modalities.texts.part import TextPart
from lightning_modules.tasks import Caption
from lightning_modules.utils.errors import InputError

if TYPE_CHECKING:
    from lightning_modules.callbacks.watch import Watch


@MODALITIES.register("text")
class Texts(Modality):
    """Texts; batches are those of :class:`~lightning_modules.data.texts.batches.TextCollator`.

    Args:
        source: their name.
        input_config: ``tokenizer``, ``special_tokens``, ``max_length``, ``overlap``; ``pairs``,
            True where the model reads two texts together, None where it may; and, where texts are
            not filled up to the longest, ``padding``.
    """

    called = "text"
    endings = (".txt",)
    axes = ("word",)
    typed = True
    pipeline = "text-classification"

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Made once: to read 30,000 pieces takes a tenth of a second."""
        return tokenizer_from_config(self.input_config)

    def read(self, path: Path) -> str:
        return self.typed_text(read_text(path, "a text in UTF-8"), str(path))

    def typed_text(self, text: str | Pair, name: str) -> str | Pair:
        """The text or pair; an InputError where it is blank, or the model reads the other."""
        pairs, is_pair = self.input_config.get("pairs", False), isinstance(text, Pair)
        if pairs is not None and is_pair != pairs:
            read, accepted = ("pairs of", "--text TEXT --text-pair TEXT")
            if not pairs:
                read, accepted = ("single", "--text TEXT, without --text-pair")
            raise InputError(f"{name}: the model reads {read} texts; accepted: {accepted}")
        for part in (text.first, text.second) if is_pair else (text,):
            if not part.strip():
                raise InputError(f"{name}: no text")
        return text

    def batch(self, contents: Sequence[str] | Sequence[Pair]) -> dict[str, Any]:
        """Texts or pairs, tokenised and truncated or cut into windows as in training."""
        config = self.input_config
        padding = config.get("padding", True)
        collate = TextCollator(self.tokenizer, config["max_length"], config["overlap"], padding)
        return collate.rows(list(contents), [find_words(str(text)) for text in contents])

    def explained(
        self, batch: Mapping[str, Any], explanation: relprop.Explanation
    ) -> ExplainedTexts:
        return ExplainedTexts.of_batch(batch, explanation)

    # -------------------------------------------------------------------- objects, backgrounds

    def with_object(self, dataset: Dataset) -> list[int]:
        """Those with a rationale."""
        return [index for index in range(len(dataset)) if dataset[index].get("rationale")]

    def on_backgrounds(
        self, batch: Mapping[str, Any], others: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Tensor]:
        """The rationales among others' words outside of theirs; see :meth:`Parted.among`.

        A text whose rationale is cut off by longer words has no object.
        """
        pairs = list(zip(parted(batch), parted(others), strict=True))
        made = self.batch([own.among(other) for own, other in pairs])
        there = [
            own.has_both and bool(other.others) and own.places <= set(seen)
            for (own, other), seen in zip(pairs, seen_words(made), strict=True)
        ]
        return {**batch, **made}, torch.tensor(there)

    # -------------------------------------------------------------------------------- drawing

    def part(
        self,
        content: str | Pair,
        batch: Mapping[str, Any],
        sample: int,
        relevance: dict[str, np.ndarray],
    ) -> TextPart:
        words = batch["words"][sample]
        relevance = {method: maps[:, : len(words)] for method, maps in relevance.items()}
        second = content.start if isinstance(content, Pair) else None
        return TextPart(self, str(content), relevance, words=words, second=second)

    # -------------------------------------------------------------------------- while training

    def scores(self, batch: Mapping[str, Any], *explained: ExplainedTexts) -> dict[str, Tensor]:
        """The most relevant words against those of the rationale, of the texts that have one."""
        if "rationale" not in batch or batch["label"].ndim > 1:  # of one class it is the rationale
            return {}
        if not batch["rationale"].any():
            return {}
        f1 = TokenF1(None, sync_on_compute=False)
        for x in explained:
            f1.update(x.word_scores.float().cpu(), batch["rationale"].cpu(), x.seen.cpu())
        return {"token_f1": f1.compute()["macro_f1"]}

    def marks(self, batch: Mapping[str, Any], target: Tensor) -> tuple[Tensor, Tensor]:
        """The pieces of the words of the rationale, [B, N]; of a text in several rows none."""
        if "rationale" not in batch or batch["label"].ndim > 1:
            return super().marks(batch, target)
        ids, rationale = batch["word_ids"], batch["rationale"]
        if len(ids) != len(rationale):
            return super().marks(batch, target)
        marks = rationale.gather(1, ids.clamp(min=0)) & (ids >= 0)
        known = batch.get("has_rationale", torch.ones_like(marks[:, 0]))
        return marks, known & marks.any(dim=1)  # truncation may leave none of its words

    def beside(
        self, explained: ExplainedTexts, marks: Tensor, drawn: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """Special tokens and padding are neither in the rationale nor outside of it."""
        marks = marks.to(explained.relevance)
        rows = zip(explained.relevance, marks, ~explained.special, strict=True)
        return [(S[None, counts], m[None, counts]) for S, m, counts in rows]

    def samples_picture(
        self,
        batch: Mapping[str, Any],
        explanations: Sequence[ExplainedTexts],
        captions: Sequence[Sequence[Caption | None]],
        heading: str,
        signed: bool,
    ) -> np.ndarray:
        return text_picture(sample_paragraphs(explanations, captions, signed), heading)

    def samples_text(
        self,
        batch: Mapping[str, Any],
        explanations: Sequence[ExplainedTexts],
        captions: Sequence[Sequence[Caption | None]],
        signed: bool,
    ) -> str:
        return markdown(sample_paragraphs(explanations, captions, signed))

    def watch_more(self, watch: Watch, count: int) -> None:
        """How often the one word that makes the difference carries the most relevance."""
        contrast = getattr(watch.data, "contrast_dataset", None)
        if contrast is None:
            return
        batch = watch.load(contrast, range(min(count, len(contrast))))
        (explained,) = watch.explain(batch, [batch["label"]], self.source)
        found = explained.word_scores.argmax(dim=1) == batch["flipped_word"]
        watch.report.scalars["contrast"] = found.float().mean()
