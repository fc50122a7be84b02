"""Hugging Face's classifiers of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto import modeling_auto
from typing_extensions import Self

import relprop
from lightning_modules.data.texts.tokenizers import input_config_of
from lightning_modules.modalities import Explained, Modality, Texts
from lightning_modules.modalities.texts.explained import ExplainedTexts
from lightning_modules.models.bert import BertClassifier
from lightning_modules.models.published.kinds import KINDS, Published
from lightning_modules.models.published.labels import class_names_in, task_of
from lightning_modules.models.published.tokens import longest_text, own_tokenizer


class ShiftedTexts(Texts):
    """Texts as a decoder reads them: each token one place later, behind one that begins it."""

    def explained(
        self, batch: Mapping[str, Any], explanation: relprop.Explanation
    ) -> ExplainedTexts:
        found = super().explained(batch, explanation)
        return found.with_relevance(F.pad(found.relevance[:, 1:], (0, 1)))


@KINDS.register("a text classifier")
class PublishedBert(Published, BertClassifier):
    """A text classifier of Hugging Face's.

    One with an encoder and a decoder, as BART, reads a text twice, and has a map of each time.
    """

    auto = AutoModelForSequenceClassification
    families = modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    accepted = "the hub id or folder of a text classifier with its tokenizer"

    @classmethod
    def read(cls, given: str, source: str, model: PreTrainedModel) -> Self:
        class_names = class_names_in(given, model.config)
        task = task_of(given, model.config, len(class_names))
        tokenizer = own_tokenizer(given, source, model, cls.accepted)
        longest = longest_text(given, model, tokenizer)
        # Whether it was trained on pairs is not known.
        config = input_config_of(tokenizer, longest, None) | {"pairs": None}
        return cls(class_names, config, model, task)

    @cached_property
    def readings(self) -> dict[str, Modality]:
        if not self.backbone.config.is_encoder_decoder:
            return self.sources
        return self.sources | {"decoder": ShiftedTexts("text", self.hparams.input_config)}

    def explain_sources(
        self,
        trace: relprop.Trace,
        batch: Mapping[str, Any],
        targets: Sequence[int | Tensor | None],
        method: str = "transformer_attribution",
        **options,
    ) -> list[dict[str, Explained]]:
        if len(self.readings) == 1:
            return super().explain_sources(trace, batch, targets, method, **options)
        found = relprop.explain_classes(trace, targets, method, **options)
        return [self.by_source(batch, explanation) for explanation in found]

    def by_source(
        self, batch: Mapping[str, Any], explanation: relprop.Explanation
    ) -> dict[str, Explained]:
        if len(self.readings) == 1:
            return super().by_source(batch, explanation)
        # In the order in which they are embedded: the encoder's tokens are first.
        both = zip(self.readings.items(), explanation.sources.values(), strict=True)
        return {name: modality.explained(batch, x) for (name, modality), x in both}
