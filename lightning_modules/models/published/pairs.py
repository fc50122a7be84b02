"""Hugging Face's models that say how well a picture and a text go together."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForZeroShotImageClassification,
    BlipForImageTextRetrieval,
    PreTrainedModel,
)
from transformers.models.auto import modeling_auto
from typing_extensions import Self

import relprop
from lightning_modules.data.images.processors import own_processor
from lightning_modules.data.texts.tokenizers import input_config_of
from lightning_modules.modalities import Explained, Modality, Texts
from lightning_modules.models.published.kinds import KINDS, Published
from lightning_modules.models.published.processed import ProcessedImages
from lightning_modules.models.published.tokens import longest_text, own_tokenizer

GIVEN_AS = {"image": "pixel_values", "text": "input_ids"}  # of a source, the model's own name


def scores_of_pairs(output: Any) -> Tensor:
    """Of all pictures with all texts, those of each with its own: [B, 1]."""
    scores = output.logits_per_image
    each = torch.arange(len(scores), device=scores.device)
    return scores[each, each][:, None]


class PublishedPairs(Published):
    """A model of Hugging Face's that is given a picture and a text, the two sources of a sample.

    A subclass also says which part of the model reads texts, and what its scores are of
    (:meth:`classes`).
    """

    reader: ClassVar[str]

    @classmethod
    def classes(cls, given: str, model: PreTrainedModel) -> tuple[list[str], str]:
        """The names of what is scored, and the task of the scores.

        ``given`` for errors.
        """
        raise NotImplementedError

    @classmethod
    def padding(cls, model: PreTrainedModel) -> bool | str:
        """How short texts are filled up, as tokenizers are told it."""
        return True

    @classmethod
    def read(cls, given: str, source: str, model: PreTrainedModel) -> Self:
        reader = getattr(model, cls.reader)
        tokenizer = own_tokenizer(given, source, reader, cls.accepted, pads=False)
        of_texts = input_config_of(tokenizer, longest_text(given, reader, tokenizer), None)
        of_texts["padding"] = cls.padding(model)
        processor, of_pictures = own_processor(given, source, cls.accepted)
        class_names, task = cls.classes(given, model)
        module = cls(class_names, {"image": of_pictures, "text": of_texts}, model, task)
        module.processor = processor
        return module

    @cached_property
    def sources(self) -> dict[str, Modality]:
        config = self.hparams.input_config
        return {
            "image": ProcessedImages("image", config["image"], self.processor),
            "text": Texts("text", config["text"]),
        }

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        inputs = {"pixel_values": batch["image"].to(self.dtype), "input_ids": batch["input_ids"]}
        if self.hparams.input_config["text"]["padding"] is True:  # else the model reads it
            inputs["attention_mask"] = batch["attention_mask"]
        return inputs

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Scores [B, C]."""
        return self.asked["output"](self.backbone(**self.inputs(batch)))

    def by_source(
        self, batch: Mapping[str, Any], explanation: relprop.Explanation
    ) -> dict[str, Explained]:
        return {
            name: modality.explained(batch, explanation.sources[GIVEN_AS[name]])
            for name, modality in self.sources.items()
        }

    def largest_batch(self) -> dict[str, Any]:
        config = self.hparams.input_config
        height, width = config["image"]["input_size"][-2:]
        text = " ".join("a" * config["text"]["max_length"])
        return self.prepare([{"image": Image.new("RGB", (width, height)), "text": text}])


@KINDS.register("a model of pictures and captions (CLIP, SigLIP)")
class PublishedCaptions(PublishedPairs):
    """One that scores every picture with every text, as CLIP and SigLIP."""

    auto = AutoModelForZeroShotImageClassification
    families = modeling_auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES
    accepted = (
        "the hub id or folder of a model of pictures and captions with its tokenizer and image "
        "processor"
    )
    asked = {"output": scores_of_pairs}
    reader = "text_model"

    @classmethod
    def classes(cls, given: str, model: PreTrainedModel) -> tuple[list[str], str]:
        # Of a score with a bias a sigmoid was trained; CLIP's compares the texts of a picture.
        return ["match"], "multilabel" if hasattr(model, "logit_bias") else "regression"

    @classmethod
    def padding(cls, model: PreTrainedModel) -> bool | str:
        # SigLIP has no mask, and was trained on texts of one length.
        return "max_length" if hasattr(model, "logit_bias") else True


@KINDS.register("an image-text matching model (BLIP)")
class PublishedMatcher(PublishedPairs):
    """One that says whether a picture and a text match, as BLIP."""

    auto = BlipForImageTextRetrieval
    families = {"blip": "BlipForImageTextRetrieval"}
    accepted = (
        "the hub id or folder of an image-text matching model with its tokenizer and image "
        "processor"
    )
    asked = {"output": lambda output: output.itm_score}
    reader = "text_encoder"

    @classmethod
    def classes(cls, given: str, model: PreTrainedModel) -> tuple[list[str], str]:
        return ["no match", "match"], "multiclass"
