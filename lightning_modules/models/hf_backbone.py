"""Hugging Face's models as backbones: from a configuration, or pretrained with a head that fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from lightning_modules.models.class_names import are_names, are_same, difference
from lightning_modules.models.hf_checks import check_keys
from lightning_modules.models.initial_weights import Weights, load_into, with_head_for
from lightning_modules.utils.errors import InputError, as_input_error
from lightning_modules.utils.hub import locate
from lightning_modules.utils.terminal import tell

# Layers that LoRA adapts, of each way that models write their attention.
HF_TARGETS = [
    ("query", "value"),
    ("q_proj", "v_proj"),
    ("q_lin", "v_lin"),
    ("query_proj", "value_proj"),
]
DISTILLED = ("cls_classifier.", "distillation_classifier.")


def describe_backbone(name: str | None, config: Mapping[str, Any] | None) -> str:
    """What a backbone is made of, in the words of a config."""
    return f"model.name {name}" if name else f"model.config {dict(config)}"


def check_one_is_given(name: str | None, config: Mapping[str, Any] | None) -> None:
    """Raises a ValueError unless a model is asked for by its name or by its sizes."""
    if (name is None) == (config is None):
        raise ValueError(
            "model.name and model.config: give one of them, a pretrained model or sizes"
        )


def labels_of(class_names: Sequence[str]) -> dict[str, Any]:
    """The classes, as configurations of Hugging Face name them."""
    labels = dict(enumerate(class_names))
    return {"id2label": labels, "label2id": {v: k for k, v in labels.items()}}


def from_config(
    auto: Any,
    config: Mapping[str, Any],
    class_names: Sequence[str],
    sizes: Mapping[str, Any],
    kind: str,
    accepted: str,
    **options: Any,
) -> nn.Module:
    """A model with random weights and a head for the classes.

    Args:
        auto: Hugging Face's class that makes it.
        config: what a user gives.
        class_names: the classes.
        sizes: what the data say of it, where ``config`` does not.
        kind: its ``model_type``, where ``config`` names none.
        accepted: for errors.
        options: of ``auto.from_config``.

    Raises:
        InputError: the configuration is not one that can be.
    """
    given = describe_backbone(None, config)
    kind = config.get("model_type", kind)
    with as_input_error(given, accepted):
        default = AutoConfig.for_model(kind)
    check_keys(config, default)
    values = {"architectures": []} | sizes | config | labels_of(class_names)
    values.pop("model_type", None)
    with as_input_error(given, accepted):
        return auto.from_config(AutoConfig.for_model(kind, **values), **options)


def from_name(
    auto: Any, name: str, class_names: Sequence[str], accepted: str, **options: Any
) -> nn.Module:
    """A pretrained model in float32. A head of classes with these names comes along.

    One of others is left out, which is told. ``options``: of ``auto.from_pretrained``.

    Raises:
        InputError: there is none.
    """
    try:
        folder = locate(name)
    except ValueError as error:
        raise InputError(f"model.name: {error}") from error
    given = describe_backbone(name, None)
    with as_input_error(given, accepted):
        saved = AutoConfig.from_pretrained(folder)
        check_not_of_timm(saved, folder)
        id2label = saved.id2label or {}
        theirs = [id2label[i] for i in sorted(id2label)]
        backbone, found = auto.from_pretrained(
            folder,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=torch.float32,  # whatever it was saved in: trainer.precision decides
            **labels_of(class_names),
            **options,
        )
    outputs = outputs_of(backbone)
    others = [key for key, *_ in found["mismatched_keys"]]
    if any(key.startswith(outputs) for key in others):
        told = difference(class_names, theirs)
        tell(f"{given}: the head is left out, its classes are others ({told})")
    elif not any(key.startswith(outputs) for key in found["missing_keys"]):
        keep_head_of(backbone, theirs, class_names, given)
    return backbone


def check_not_of_timm(config: PreTrainedConfig, folder: str) -> None:
    """Raises an InputError for a model of timm's, which transformers wraps."""
    if config.model_type == "timm_wrapper":
        raise InputError(
            f"it is timm's {config.architecture}; accepted: model.kind=vit model.name="
            f"{config.architecture} model.weights={folder}/model.safetensors"
        )


def keep_head_of(
    backbone: nn.Module, theirs: Sequence[str], class_names: Sequence[str], given: str
) -> None:
    """Give a trained last layer's rows the order of ``class_names``, or make it anew for others.

    Args:
        backbone: a pretrained model.
        theirs: names of its classes; numbers, where it does not name them.
        class_names: the classes of the data.
        given: the model, in the words of a config.
    """
    if are_same(class_names, theirs):
        return
    outputs = outputs_of(backbone)
    state = {k: v.clone() for k, v in backbone.state_dict().items() if k.startswith(outputs)}
    weights = Weights(state, {"class_names": theirs} if are_names(theirs) else None)
    kept = with_head_for(weights, state, outputs, class_names, given)
    for name, parameter in backbone.named_parameters():
        if name.startswith(outputs) and name not in kept:
            nn.init.normal_(parameter, std=0.02) if parameter.ndim > 1 else nn.init.zeros_(
                parameter
            )
    backbone.load_state_dict(kept, strict=False)


def outputs_of(backbone: nn.Module) -> tuple[str, ...]:
    """Prefixes of the names of the last layers' parameters, which have a row for each class.

    There is one such layer, or the two of a distilled DeiT.
    """
    names = [name for name in backbone.state_dict() if not name.startswith(trunk_of(backbone))]
    layers = [f"{name.rpartition('.')[0]}." for name in names]
    return DISTILLED if set(DISTILLED) <= set(layers) else (layers[-1],)


def trunk_of(backbone: nn.Module) -> str:
    """Prefix of the names of all parameters but the head's."""
    return f"{backbone.base_model_prefix}."


def load_weights(
    backbone: nn.Module, path: str, weights: Weights, class_names: Sequence[str]
) -> None:
    """Load weights that were read from ``path``; see :func:`.initial_weights.with_head_for`.

    Raises:
        ValueError: the weights do not fit.
    """
    own = backbone.state_dict()
    head = tuple(name for name in own if not name.startswith(trunk_of(backbone)))
    state = with_head_for(weights, own, outputs_of(backbone), class_names)
    load_into(backbone, path, state, head)


def saved_config(backbone: nn.Module) -> dict[str, Any]:
    """The configuration that :func:`from_config` makes the same model of, in plain values."""
    built = backbone.config
    return built.to_diff_dict() | {"model_type": built.model_type}
