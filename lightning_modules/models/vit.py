"""ViT, DeiT, Swin, ConvNeXt, ResNet and other image classifiers: any of timm's, by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import timm
from PIL import Image
from timm.data import Mixup
from timm.models import get_deprecated_models
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

import relprop
from lightning_modules.data.images.imagenet import imagenet_names
from lightning_modules.modalities import Images
from lightning_modules.modalities.images.explained import ExplainedImages
from lightning_modules.models.class_names import are_same
from lightning_modules.models.classifier import CLASSIFIERS, Classifier
from lightning_modules.models.initial_weights import load_into, read_weights, with_head_for
from lightning_modules.models.teacher import start_from
from lightning_modules.tasks import precise
from lightning_modules.utils.errors import InputError, as_input_error
from lightning_modules.utils.options import NotNegative
from lightning_modules.utils.timm_names import TimmName, check_backbone_name


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
        options: those of :class:`Classifier`.

    Batches hold ``image`` [B, 3, H, W] and ``label``, as the task has it.
    """

    no_sources = {"pretrained": False, "weights": None, "previous": None}
    usual_targets = [("qkv", "proj"), ("q_proj", "v_proj")]

    def __init__(
        self,
        class_names: list[str],
        input_config: dict[str, Any],
        name: TimmName = "deit_small_patch16_224",
        pretrained: bool = False,
        weights: str | None = None,
        model_options: dict[str, Any] | None = None,
        *,
        previous: str | None = None,
        mixup: NotNegative = 0.0,
        cutmix: NotNegative = 0.0,
        **options,
    ) -> None:
        super().__init__(class_names, input_config, **options)
        size = tuple(input_config["input_size"][-2:])
        self.backbone = create_backbone(
            name, len(class_names), pretrained, model_options or {}, size
        )
        if pretrained and has_head_of_others(self.backbone, class_names):
            self.backbone.reset_classifier(len(class_names))
        if weights is not None:
            load_weights(self.backbone, weights, class_names)
        if previous is not None:
            start_from(self, previous)
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
            no_weight_decay_list=getattr(self.backbone, "no_weight_decay", tuple)(),
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
        return ExplainedImages.of(explanation)

    def head_parameters(self) -> set[str]:
        return {
            f"{head}.{name}"
            for head, module in heads_of(self.backbone).items()
            for name, _ in module.named_parameters()
        }

    def largest_batch(self) -> dict[str, Tensor]:
        height, width = self.hparams.input_config["input_size"][-2:]
        return self.prepare([Image.new("RGB", (width, height))])

    def backbone_options(self) -> tuple[str, str]:
        height, width = self.hparams.input_config["input_size"][-2:]
        given = describe_backbone(self.hparams.name, False, self.hparams.model_options or {})
        return given, f"a model of pictures of 3 x {height} x {width}"

    def without_sources(self) -> dict[str, Any]:
        return dict(self.no_sources)


def describe_backbone(name: str, pretrained: bool, options: Mapping[str, Any]) -> str:
    """What a backbone is made of, in the words of a config."""
    start = ", model.pretrained=true" if pretrained else ""
    return f"model.name {name}{start}" + (f", model.model_options {dict(options)}" * bool(options))


def create_backbone(
    name: str,
    classes: int | None,
    pretrained: bool,
    options: Mapping[str, Any],
    size: tuple[int, int] | None = None,
) -> nn.Module:
    """timm's model of that name; None: with as many classes, of such pictures, as it comes with.

    Raises:
        InputError: there is none, and says the nearest names; or the options do not go together.
    """
    check_backbone_name("model.name", name)
    head = {} if classes is None else {"num_classes": classes}
    accepted = "a model of timm, with options that it takes and that go together"
    if pretrained:
        accepted += ", and with weights that can be had from the hub"
    with as_input_error(describe_backbone(name, pretrained, options), accepted):
        pictures = {"img_size": size} if size is not None and is_of_one_size(name) else {}
        return timm.create_model(name, pretrained=pretrained, **head, **pictures | options)


def is_of_one_size(name: str) -> bool:
    """Whether timm's model of that name is made for pictures of one size, and takes ``img_size``.

    The others take pictures of any size.
    """
    config = timm.get_pretrained_cfg(get_deprecated_models().get(name) or name)
    return config is None or config.fixed_input_size


def class_names_of(classes: int) -> list[str]:
    """ImageNet's names for a thousand classes; else numbers, or what a single number is called."""
    if classes == 1:
        return ["output"]
    return imagenet_names() if classes == 1000 else [str(label) for label in range(classes)]


def has_head_of_others(backbone: nn.Module, class_names: Sequence[str]) -> bool:
    """True if timm's weights brought a head of as many classes, with other names."""
    classes = backbone.pretrained_cfg["num_classes"]
    return classes == len(class_names) and not are_same(class_names, class_names_of(classes))


def heads_of(backbone: nn.Module) -> dict[str, nn.Module]:
    """The last layers by name: one, or the two of a distilled DeiT."""
    heads = backbone.get_classifier()
    heads = heads if isinstance(heads, tuple) else (heads,)
    return {name: m for name, m in backbone.named_modules() if any(m is head for head in heads)}


def load_weights(backbone: nn.Module, path: str, class_names: Sequence[str]) -> None:
    """Load weights of a run or a file, as timm takes them for the model; see `with_head_for`.

    Position embeddings, and Swin's tables of relative positions, are resized.
    """
    weights = read_weights(path, "vit")
    head = tuple(f"{name}." for name in heads_of(backbone))
    try:
        state = own_filter(backbone)(weights.state, backbone)
    except Exception as error:  # whatever weights of another model make timm raise
        reason = str(error).splitlines()[0]
        raise ValueError(f"model.weights {path} cannot be read as weights: {reason}") from error
    weights = replace(weights, state=state)
    state = with_head_for(weights, backbone.state_dict(), head, class_names)
    load_into(backbone, path, state, head)


def own_filter(backbone: nn.Module) -> Callable[[dict[str, Tensor], nn.Module], dict]:
    """What makes weights fit the backbone, of the file that has its class; none has ResNet's."""
    file = sys.modules[type(backbone).__module__]
    return getattr(file, "checkpoint_filter_fn", lambda state, model: state)
