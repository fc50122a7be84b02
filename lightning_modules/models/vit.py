"""ViT, DeiT, Swin, ConvNeXt, ResNet and other image classifiers: any of timm's, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any

import torch
from PIL import Image
from timm.data import Mixup
from timm.optim import param_groups_layer_decay
from torch import Tensor

import relprop
from lightning_modules.modalities import Images
from lightning_modules.modalities.images.explained import ExplainedImages
from lightning_modules.models.classifier import CLASSIFIERS, Classifier
from lightning_modules.models.initial_weights import read_weights
from lightning_modules.models.parts import (
    boxes_of,
    check_class_token,
    contrastive_loss,
    select_in_last_block,
)
from lightning_modules.models.pooling import AttentionPool, Pool, check_plain, is_pooled, pool_by
from lightning_modules.models.teacher import start_from
from lightning_modules.models.vit_backbone import (
    create_backbone,
    describe_backbone,
    has_head_of_others,
    heads_of,
    load_weights,
    without_decay,
)
from lightning_modules.tasks import precise
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import Count, NotNegative, PathThere, Range
from lightning_modules.utils.timm_names import TimmName
from relprop.recording.run import evaluating


@CLASSIFIERS.register("vit")
class ViTClassifier(Classifier):
    """A model of timm's, trained from scratch, from timm's weights, or from a file of weights.

    Args:
        class_names: see :class:`Classifier`.
        input_config: in timm's words (``input_size``, ``mean``, ``std``, ``interpolation``,
            ``crop_pct``, ``crop_mode``).
        name: a timm model, e.g. ``deit_small_patch16_224``.
        pretrained: start from timm's weights for it, from the model hub.
        weights: or from a file of weights (``.safetensors``, ``.pth``), a run's folder or one of
            its checkpoints; a head of other classes is left out.
        previous: go on from a run's folder or one of its checkpoints, with new classes after those
            of it; see :func:`.teacher.start_from`.
        model_options: further arguments of ``timm.create_model`` (``depth``, ``drop_path_rate``).
        mixup, cutmix: alpha of their Beta distributions; 0 is off.
        pool: what the head reads of a plain ViT, see :func:`.pooling.pool_by`; None: what timm's
            model has it read.
        pool_heads, pool_init: of a layer that pools by attention, :class:`.pooling.AttentionPool`.
        parts: the last block sees the class token and selected patches, :mod:`.parts`.
        contrastive: weight of :func:`.parts.contrastive_loss` on class tokens; 0 is off.
        margin: of that loss.
        patch_stride: pixels between patches, which overlap; None: they lie side by side.
        options: those of :class:`Classifier`.

    Batches hold ``image`` [B, 3, H, W] and ``label``, as the task has it.
    """

    reads = ("input_size",)
    no_sources = {"pretrained": False, "weights": None, "previous": None}
    kept = {"pool": None, "pool_heads": 1, "parts": False, "patch_stride": None}
    usual_targets = [("qkv", "proj"), ("q_proj", "v_proj")]

    def __init__(
        self,
        class_names: list[str],
        input_config: dict[str, Any],
        name: TimmName = "deit_small_patch16_224",
        pretrained: bool = False,
        weights: PathThere | None = None,
        model_options: dict[str, Any] | None = None,
        *,
        previous: PathThere | None = None,
        mixup: NotNegative = 0.0,
        cutmix: NotNegative = 0.0,
        pool: Pool | None = None,
        pool_heads: Count = 1,
        pool_init: float = 1e-4,
        parts: bool = False,
        contrastive: NotNegative = 0.0,
        margin: Annotated[float, Range(-1, 1)] = 0.4,
        patch_stride: Count | None = None,
        **options,
    ) -> None:
        super().__init__(class_names, input_config, **options)
        size = tuple(input_config["input_size"][-2:])
        self.backbone = create_backbone(
            name, len(class_names), pretrained, model_options or {}, size, patch_stride
        )
        if pretrained and has_head_of_others(self.backbone, class_names):
            self.backbone.reset_classifier(len(class_names))
        given = None if weights is None else read_weights(weights, "vit")
        is_pooled_so = given is not None and is_pooled(given.state)
        if given is not None and not is_pooled_so:
            load_weights(self.backbone, weights, given, class_names)
        if pool is not None:
            pool_by(self.backbone, pool, pool_heads, pool_init)
        if given is not None and is_pooled_so:
            load_weights(self.backbone, weights, given, class_names)
        if parts:
            select_in_last_block(self.backbone)
        if previous is not None:
            start_from(self, previous)
        self.check_contrastive(mixup, cutmix)
        self.choose_trained()
        self.mix = None
        if mixup > 0 or cutmix > 0:
            if self.hparams.task != "multiclass":
                raise ValueError(
                    f"mixup is {mixup} and cutmix {cutmix}, and the task is {self.hparams.task}; "
                    "accepted: 0 and 0, or the task multiclass"
                )
            smoothing = self.hparams.label_smoothing
            self.mix = Mixup(mixup, cutmix, label_smoothing=smoothing, num_classes=len(class_names))

    @cached_property
    def sources(self) -> dict[str, Images]:
        return {"image": Images("image", self.hparams.input_config)}

    def inputs(self, batch: Mapping[str, Tensor]) -> Tensor:
        return batch["image"].to(self.dtype)  # trainer.precision may be 64-true or bf16-true

    def check_contrastive(self, mixup: float, cutmix: float) -> None:
        """Raises an InputError where class tokens of a batch have no pairs of classes."""
        given = f"model.contrastive is {self.hparams.contrastive}"
        if not self.hparams.contrastive:
            return
        others = {"task": self.hparams.task, "mixup": mixup, "cutmix": cutmix}
        others["compile"] = self.hparams.compile
        accepted = {"task": "multiclass", "mixup": 0, "cutmix": 0, "compile": False}
        for option, value in others.items():
            if value != accepted[option]:
                raise InputError(
                    f"{given}, and model.{option} is {value}; accepted with it: {accepted[option]}"
                )
        check_plain(self.backbone, given)
        check_class_token(self.backbone, given)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        weight = self.hparams.contrastive
        samples = getattr(self.trainer.datamodule, "batch_size", 2) * self.trainer.world_size
        if weight and samples == 1:
            raise InputError(
                f"model.contrastive is {weight}, and a batch of 1 has no pairs; accepted: "
                "data.batch_size of 2 or more"
            )

    def forward_training(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.hparams.contrastive:
            return super().forward_training(batch)
        tokens = self.backbone.forward_features(self.inputs(batch))
        logits = self.backbone.forward_head(tokens)
        features, labels = precise(tokens[:, 0]), batch["label"]
        if self.trainer.world_size > 1:  # pairs are of the samples of all processes
            features = self.all_gather(features, sync_grads=True).flatten(0, 1)
            labels = self.all_gather(labels).flatten()
        loss = contrastive_loss(features, labels, self.hparams.margin)
        return logits, {"contrastive": self.hparams.contrastive * loss}

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        if self.mix is None:
            return super().training_step(batch, batch_idx)
        if len(batch["label"]) % 2:
            raise InputError(
                f"a batch of {len(batch['label'])} cannot be mixed in pairs; accepted with mixup "
                "or cutmix: an even data.batch_size"
            )
        images, labels = self.mix(batch["image"].clone(), batch["label"])  # labels are shares now
        loss = self.task.loss(precise(self.backbone(images)), labels, training=True)
        self.log_training(loss)
        return loss

    def parameter_groups(self) -> list[dict]:
        groups = param_groups_layer_decay(
            self.backbone,
            weight_decay=self.hparams.weight_decay,
            no_weight_decay_list=without_decay(self.backbone),
            layer_decay=self.hparams.layer_decay,
        )
        return [
            {
                "params": group["params"],
                "weight_decay": group["weight_decay"],
                "lr": self.hparams.lr * group["lr_scale"],
            }
            for group in groups
        ]

    def explain(
        self,
        batch: Mapping[str, Tensor],
        target: int | Tensor | None = None,
        method: str = "transformer_attribution",
        **options,
    ) -> ExplainedImages:
        """The relevance behind each decision; ``target``, ``method`` and ``options`` are those of
        :func:`relprop.explain`, ``max_memory`` among them."""
        inputs = self.inputs(batch)
        with self.merged():
            explanation = relprop.explain(self.backbone, inputs, target, method, **options)
        explained = ExplainedImages.of(explanation)
        if self.hparams.get("parts"):
            with evaluating(self.backbone), torch.no_grad():  # the batch was explained in parts
                self.of_backbone(inputs)
            explained = replace(explained, boxes=self.boxes(batch))
        return explained

    def record(self, batch: Mapping[str, Tensor], **options) -> relprop.Trace:
        trace = super().record(batch, **options)
        if self.hparams.get("parts"):
            trace.boxes = self.boxes(batch)
        return trace

    def boxes(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The parts that were selected in the last forward pass, which was of this batch.

        Left, top, right, bottom in pixels of its pictures, [B, heads, 4].
        """
        selected, embed = self.backbone.blocks.selected, self.backbone.patch_embed
        return boxes_of(selected, embed, batch["image"].shape[-2:])

    def explain_sources(
        self, trace: relprop.Trace, batch: Mapping[str, Any], *args, **options
    ) -> list[dict[str, ExplainedImages]]:
        found = super().explain_sources(trace, batch, *args, **options)
        boxes = getattr(trace, "boxes", None)
        if boxes is None:
            return found
        return [{name: replace(x, boxes=boxes) for name, x in of.items()} for of in found]

    def head_parameters(self) -> set[str]:
        """Those of the head, and of the layer that pools by a learned query."""
        layers = heads_of(self.backbone)
        if isinstance(getattr(self.backbone, "attn_pool", None), AttentionPool):
            layers["attn_pool"] = self.backbone.attn_pool
        return {
            f"{layer}.{name}"
            for layer, module in layers.items()
            for name, _ in module.named_parameters()
        }

    def beyond_library(self) -> str | None:
        given = {x: self.hparams.get(x) for x in ("pool", "parts", "patch_stride")}
        changed = [f"model.{name}={value}" for name, value in given.items() if value]
        return ", ".join(changed) or None

    def largest_batch(self) -> dict[str, Tensor]:
        height, width = self.hparams.input_config["input_size"][-2:]
        return self.prepare([Image.new("RGB", (width, height))])

    def backbone_options(self) -> tuple[str, str]:
        height, width = self.hparams.input_config["input_size"][-2:]
        given = describe_backbone(self.hparams.name, False, self.hparams.model_options or {})
        return given, f"a model of pictures of 3 x {height} x {width}"

    def without_sources(self) -> dict[str, Any]:
        return dict(self.no_sources)
