"""Image classifiers of Hugging Face: ViT, DeiT, BEiT, DINOv2, Swin, ConvNeXt and their like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForImageClassification

from lightning_modules.modalities import Images
from lightning_modules.models import hf_backbone
from lightning_modules.models.classifier import CLASSIFIERS, Classifier
from lightning_modules.models.hf_backbone import HF_TARGETS, describe_backbone, saved_config
from lightning_modules.models.initial_weights import read_weights
from lightning_modules.utils.options import NotNegative, PathThere

NOT_DECAYED = re.compile(r"_token$|position_embedding|relative_position_bias")


@CLASSIFIERS.register("hf_image")
class HFImageClassifier(Classifier):
    """An image classifier of Hugging Face, fine-tuned or trained from scratch.

    Args:
        class_names: see :class:`Classifier`.
        input_config: in timm's words (``input_size``, ``mean``, ``std``, ``interpolation``,
            ``crop_pct``, ``crop_mode``).
        name: hub id or local folder of a pretrained model, e.g. ``facebook/dinov2-small``, or
            ``package:NAME/FOLDER`` for a folder of an installed Python package.
        config: or a Hugging Face configuration to train from scratch, with its ``model_type``
            (``vit``, ``deit``, ``beit``, ``dinov2``, ``swin``, ``convnext``) and sizes; the size of
            the pictures is that of the data.
        weights: begin with those of a run's folder or of one of its checkpoints; a head of other
            classes is left out.
        options: those of :class:`Classifier`.

    Batches hold ``image`` [B, 3, H, W] and ``label`` [B].
    """

    reads = ("input_size",)
    no_sources = {"name": None, "weights": None}
    usual_targets = HF_TARGETS

    def __init__(
        self,
        class_names: list[str],
        input_config: dict[str, Any],
        name: str | None = None,
        config: dict[str, Any] | None = None,
        weights: PathThere | None = None,
        *,
        lr: NotNegative = 1e-4,
        **options,
    ) -> None:
        super().__init__(class_names, input_config, lr=lr, **options)
        self.backbone = create_backbone(name, config, class_names, input_config)
        if weights is not None:
            given = read_weights(weights, self.kind)
            hf_backbone.load_weights(self.backbone, weights, given, class_names)
        self.backbone.train()  # transformers loads in evaluation, and Lightning leaves it so
        for parameter_name, parameter in self.backbone.named_parameters():
            if parameter_name.endswith("mask_token"):  # pretraining's: processes would wait for it
                parameter.requires_grad_(False)
        self.choose_trained()

    @cached_property
    def sources(self) -> dict[str, Images]:
        return {"image": Images("image", self.hparams.input_config)}

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # trainer.precision may be 64-true or bf16-true
        return {"pixel_values": batch["image"].to(self.dtype)}

    def parameter_groups(self) -> list[dict]:
        return self.groups_of(
            self.levels(), lambda name, x: x.ndim > 1 and not NOT_DECAYED.search(name)
        )

    def head_parameters(self) -> set[str]:
        base = {id(parameter) for parameter in self.backbone.base_model.parameters()}
        return {name for name, p in self.backbone.named_parameters() if id(p) not in base}

    def largest_batch(self) -> dict[str, Tensor]:
        height, width = self.hparams.input_config["input_size"][-2:]
        return self.prepare([Image.new("RGB", (width, height))])

    def backbone_options(self) -> tuple[str, str]:
        height, width = self.hparams.input_config["input_size"][-2:]
        accepted = f"a model of pictures of 3 x {height} x {width}"
        name = self.hparams.name
        if name is not None:
            accepted += f", or data.transforms_of={name}, which makes pictures as it needs them"
        return describe_backbone(name, self.hparams.config), accepted

    def without_sources(self) -> dict[str, Any]:
        return self.no_sources | {"config": saved_config(self.backbone)}


def create_backbone(
    name: str | None,
    config: Mapping[str, Any] | None,
    class_names: list[str],
    input_config: Mapping[str, Any],
) -> nn.Module:
    """Hugging Face's model in float32, with a head for the classes.

    Raises:
        InputError: there is none, or its configuration is not one that can be.
    """
    hf_backbone.check_one_is_given(name, config)
    auto = AutoModelForImageClassification
    if name is not None:
        accepted = "the hub id or folder of a model of pictures, in reach"
        return hf_backbone.from_name(auto, name, class_names, accepted)
    accepted = "model_type vit, deit, beit, dinov2, swin or convnext, with sizes that go together"
    height, width = input_config["input_size"][-2:]
    sizes = {"image_size": height if height == width else [height, width]}
    return hf_backbone.from_config(auto, config, class_names, sizes, "vit", accepted)
