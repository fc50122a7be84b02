"""Hugging Face's classifiers of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageClassification, PreTrainedModel
from transformers.models.auto import modeling_auto
from typing_extensions import Self

from lightning_modules.models.published.kinds import KINDS, Published
from lightning_modules.models.published.labels import class_names_in, task_of
from lightning_modules.models.published.processors import ProcessedImages, own_processor


@KINDS.register("an image classifier")
class PublishedImageClassifier(Published):
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

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"pixel_values": batch["image"].to(self.dtype)}

    def largest_batch(self) -> dict[str, Any]:
        height, width = self.hparams.input_config["input_size"][-2:]
        return self.prepare([Image.new("RGB", (width, height))])
