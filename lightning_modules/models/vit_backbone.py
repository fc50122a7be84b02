"""A model of timm's for a classifier: made by name, with weights of a run or a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import timm
import torch
from timm.models import get_deprecated_models
from torch import Tensor, nn

from lightning_modules.data.images.imagenet import imagenet_names
from lightning_modules.models.class_names import are_same
from lightning_modules.models.initial_weights import Weights, load_into, with_head_for
from lightning_modules.models.parts import OverlappingPatches, check_stride
from lightning_modules.models.pooling import AttentionPool
from lightning_modules.utils.errors import as_input_error
from lightning_modules.utils.timm_names import check_backbone_name

LAYERS = (nn.Linear, nn.Conv2d)


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
    stride: int | None = None,
) -> nn.Module:
    """timm's model of that name; None: with as many classes, of such pictures, as it comes with.

    ``stride``: of patches that overlap, see :class:`.parts.OverlappingPatches`.

    Raises:
        InputError: there is none, and says the nearest names; or the options do not go together.
    """
    check_backbone_name("model.name", name)
    more: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if stride is not None:
        with torch.device("meta"):
            check_stride(create_backbone(name, classes, False, options, size), stride)
        more["embed_layer"] = partial(OverlappingPatches, stride=stride)
    accepted = "a model of timm, with options that it takes and that go together"
    if pretrained:
        accepted += ", and with weights that can be had from the hub"
    with as_input_error(describe_backbone(name, pretrained, options), accepted):
        pictures = {"img_size": size} if size is not None and is_of_one_size(name) else {}
        return timm.create_model(name, pretrained=pretrained, **more, **pictures | options)


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
    """The classifiers by name: one, or the two of a distilled DeiT."""
    heads = backbone.get_classifier()
    heads = heads if isinstance(heads, tuple) else (heads,)
    return {name: m for name, m in backbone.named_modules() if any(m is head for head in heads)}


def class_layers(backbone: nn.Module) -> list[str]:
    """Names of the layers that have a row of weights for each class.

    The classifiers themselves, or those within, as behind the norm of LeViT's.
    """
    found: list[str] = []
    for name, head in heads_of(backbone).items():
        within = head.named_modules(prefix=name)
        layers = [x for x, m in within if isinstance(m, LAYERS) and has_row_of_each(m, backbone)]
        found += layers or [name]
    return found


def has_row_of_each(layer: nn.Module, backbone: nn.Module) -> bool:
    """Whether a layer has a row of weights for each class, as a hidden one has not."""
    return len(layer.weight) == backbone.num_classes


def load_weights(
    backbone: nn.Module, path: str, weights: Weights, class_names: Sequence[str]
) -> None:
    """Load weights of a run or a file, as timm takes them for the model; see `with_head_for`.

    Position embeddings, and Swin's tables of relative positions, are resized. A query a class is
    of the head, and a layer that pools begins anew where the weights have none.

    Args:
        path: where ``weights`` are from.
    """
    head = tuple(f"{name}." for name in class_layers(backbone))
    pool = getattr(backbone, "attn_pool", None)
    if isinstance(pool, AttentionPool) and not pool.is_shared:
        head += ("attn_pool.query",)
    new = () if any(name.startswith("attn_pool.") for name in weights.state) else ("attn_pool.",)
    try:
        state = own_filter(backbone)(weights.state, backbone)
    except Exception as error:  # whatever weights of another model make timm raise
        reason = str(error).splitlines()[0]
        raise ValueError(f"model.weights {path} cannot be read as weights: {reason}") from error
    weights = replace(weights, state=state)
    state = with_head_for(weights, backbone.state_dict(), head, class_names)
    load_into(backbone, path, state, head + new)


def without_decay(backbone: nn.Module) -> set[str]:
    """Names of the parameters that have no weight decay, as the model and its pooling say."""
    names = set(getattr(backbone, "no_weight_decay", tuple)())
    if isinstance(pool := getattr(backbone, "attn_pool", None), AttentionPool):
        names |= {f"attn_pool.{name}" for name in pool.no_weight_decay()}
    return names


def own_filter(backbone: nn.Module) -> Callable[[dict[str, Tensor], nn.Module], dict]:
    """What makes weights fit the backbone, of the file that has its class; none has ResNet's."""
    file = sys.modules[type(backbone).__module__]
    return getattr(file, "checkpoint_filter_fn", lambda state, model: state)
