"""LoRA: adapters of low rank in layers of the blocks, which are peft's."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import nn

from lightning_modules.models.blocks import layers_in_blocks
from lightning_modules.utils.errors import InputError, as_input_error
from lightning_modules.utils.extras import extra
from lightning_modules.utils.options import Count, Range, from_mapping

OPTION = "model.lora"


@dataclass(frozen=True)
class Lora:
    """The option ``lora`` of a classifier.

    Args:
        rank: of the two matrices of an adapter.
        alpha: an adapter's output is multiplied by ``alpha / rank``.
        dropout: of an adapter's input.
        targets: names of layers within the blocks, as ``qkv`` or ``attn.qkv``; None: what the
            kind of model usually has, of queries and values.
        save: ``all``: a checkpoint has all weights. ``adapters``: it has those of the adapters and
            of the head, with the name of the base and a hash of its weights.
    """

    rank: Count = 8
    alpha: Annotated[float, Range(above=0)] = 16.0
    dropout: Annotated[float, Range(0, below=1)] = 0.0
    targets: list[str] | None = None
    save: Literal["all", "adapters"] = "all"

    @staticmethod
    def of(given: Mapping[str, Any]) -> Lora:
        """Raises a ValueError of the option that is not accepted."""
        return from_mapping(Lora, OPTION, given)


def adapt(backbone: nn.Module, lora: Lora, usual: Sequence[Sequence[str]]) -> None:
    """Put adapters into the layers that are asked for; nothing but adapters is trained then.

    Args:
        backbone: is changed in place.
        lora: what is asked for.
        usual: names of layers that go together, of which the first that the blocks have are taken
            where none are asked for.

    Raises:
        InputError: peft is not installed, or the blocks do not have such layers.
    """
    peft = extra("peft", "lora", OPTION)
    names = targets_in(backbone, lora.targets, usual)
    with as_input_error(OPTION, "a rank, and targets, that peft takes together"):
        config = peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=names,
        )
        peft.inject_adapter_in_model(config, backbone)


def targets_in(
    backbone: nn.Module, targets: Sequence[str] | None, usual: Sequence[Sequence[str]]
) -> list[str]:
    """Full names of the layers that get an adapter; an InputError where a target has none."""
    layers = layers_in_blocks(backbone)
    has = f"what the blocks have, {', '.join(dict.fromkeys(layers.values()))}"
    if targets is None:
        of_all = [[layer_of(layers, target) for target in together] for together in usual]
        found = next((x for x in of_all if all(x)), None)
        if found is None:
            raise InputError(
                f"{OPTION}.targets is null, and no usual ones are there; accepted: {has}"
            )
        return [name for names in found for name in names]
    if not targets:
        raise InputError(f"{OPTION}.targets is empty; accepted: null, or {has}")
    for target in targets:
        if not layer_of(layers, target):
            raise InputError(
                f"{OPTION}.targets has {target!r}, which matches nothing; accepted: {has}"
            )
    return list(dict.fromkeys(name for x in targets for name in layer_of(layers, x)))


def layer_of(layers: Mapping[str, str], target: str) -> list[str]:
    """Full names of the layers that a target names within their block, or the end of it."""
    return [
        name for name, within in layers.items() if within == target or within.endswith(f".{target}")
    ]


# ---------------------------------------------------------------------------------------- merging


@contextmanager
def merged(backbone: nn.Module) -> Iterator[None]:
    """Within, the backbone's layers are plain ones, with the adapters in their weights.

    The weights that are trained are not touched, and no random number is drawn.
    """
    places = adapted_layers(backbone)
    try:
        for parent, name, layer in places:
            parent._modules[name] = plain_layer(layer)
        yield
    finally:
        for parent, name, layer in places:
            parent._modules[name] = layer


def merge(backbone: nn.Module) -> None:
    """As :func:`merged`, for good."""
    for parent, name, layer in adapted_layers(backbone):
        parent._modules[name] = plain_layer(layer)


def adapted_layers(backbone: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Layers with an adapter, each with what it is a part of and its name there."""
    if "peft" not in sys.modules:  # which has made them, and takes seconds to import
        return []
    from peft.tuners.lora import LoraLayer

    return [
        (parent, name, layer)
        for parent in backbone.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, LoraLayer) and not layer.disable_adapters
    ]


@torch.no_grad()
def plain_layer(layer: nn.Module) -> nn.Module:
    """A copy of a layer, with its adapters in its weight."""
    copied = copy.deepcopy(layer)
    copied.merge()
    return copied.get_base_layer().requires_grad_(False)
