"""Hugging Face's classifiers of pictures."""

from __future__ import annotations

from functools import cached_property

from transformers import AutoModelForImageClassification, PreTrainedModel
from transformers.models.auto import modeling_auto
from typing_extensions import Self

from lightning_modules.data.images.processors import own_processor
from lightning_modules.models.hf_image import HFImageClassifier
from lightning_modules.models.published.kinds import KINDS, Published
from lightning_modules.models.published.labels import class_names_in, task_of
from lightning_modules.models.published.processed import ProcessedImages


@KINDS.register("an image classifier")
class PublishedImageClassifier(Published, HFImageClassifier):
    """An image classifier of Hugging Face's, whose pictures its own image processor prepares."""

    auto = AutoModelForImageClassification
    families = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    accepted = "the hub id or folder of an image classifier with its image processor"

    @classmethod
    def read(cls, given: str, source: str, model: PreTrainedModel) -> Self:
        class_names = class_names_in(given, model.config)
        task = task_of(given, model.config, len(class_names))
        processor, input_config = own_processor(given, source, cls.accepted)
        module = cls(class_names, input_config, model, task)
        module.processor = processor
        return module

    @cached_property
    def sources(self) -> dict[str, ProcessedImages]:
        return {"image": ProcessedImages("image", self.hparams.input_config, self.processor)}
