"""Hugging Face's classifiers of texts."""

from __future__ import annotations

from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto import modeling_auto
from typing_extensions import Self

from lightning_modules.data.texts.tokenizers import input_config_of
from lightning_modules.models.bert import BertClassifier
from lightning_modules.models.published.kinds import KINDS, Published
from lightning_modules.models.published.labels import activation_of, class_names_in
from lightning_modules.models.published.tokens import longest_text, own_tokenizer


@KINDS.register("a text classifier")
class PublishedBert(Published, BertClassifier):
    """A text classifier of Hugging Face's."""

    auto = AutoModelForSequenceClassification
    families = modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    accepted = "the hub id or folder of a text classifier with its tokenizer"

    @classmethod
    def read(cls, given: str, source: str, model: PreTrainedModel) -> Self:
        class_names = class_names_in(given, model.config)
        activation = activation_of(given, model.config, len(class_names))
        tokenizer = own_tokenizer(given, source, model, cls.accepted)
        longest = longest_text(given, model, tokenizer)
        return cls(class_names, input_config_of(tokenizer, longest, None), model, activation)
