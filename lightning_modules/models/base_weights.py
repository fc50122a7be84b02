"""Checkpoints without the weights of the base that adapters are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_modules.utils.checkpoint_files import WRITTEN_BY_TRAIN
from lightning_modules.utils.errors import InputError, as_input_error
from lightning_modules.utils.fingerprint import fingerprint


@dataclass(frozen=True)
class Base:
    """Frozen weights that a checkpoint does not have.

    ``name``: where they are from, in the words of a config. ``weights``: a hash of them.
    """

    name: str
    weights: str

    def kept(self) -> dict[str, str]:
        """What a checkpoint has of it."""
        return asdict(self)


def leave_out(module: nn.Module, sources: Mapping[str, Any]) -> Base:
    """From now on the module's state dict has no frozen weights, and it loads without them.

    Args:
        module: keeps what is returned as ``base``; with None there the state dict has all again.
        sources: the options that name where the weights are from.

    Raises:
        InputError: there are none; the weights are random, and nobody could have them again.
    """
    if not sources:
        raise InputError(
            "model.lora.save is adapters, and the base has random weights; accepted: all, or a "
            "base from the hub, from a folder or from model.weights"
        )
    frozen = {name: p for name, p in module.named_parameters() if not p.requires_grad}
    names = tuple(frozen)

    def without(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
        if module.base is not None:  # None: merged since
            for name in names:
                state.pop(prefix + name, None)

    def not_missing(module: nn.Module, keys: Any) -> None:
        keys.missing_keys[:] = [key for key in keys.missing_keys if not key.endswith(names)]

    module.register_state_dict_post_hook(without)
    module.register_load_state_dict_post_hook(not_missing)
    plain = {name.replace(".base_layer.", "."): value for name, value in frozen.items()}
    given = ", ".join(f"model.{name}={value}" for name, value in sources.items())
    return Base(given, fingerprint(plain))


def base_in(state: Mapping[str, Any], checkpoint: Path) -> Base | None:
    """The base that a checkpoint was written without; None where it has all weights."""
    if "base" not in state:
        return None
    with as_input_error(f"{checkpoint}: it is broken, its base", WRITTEN_BY_TRAIN):
        return Base(**state["base"])


def check_base(ours: Base | None, theirs: Base | None, checkpoint: Path) -> None:
    """Raises an InputError where a checkpoint is for a base with other weights."""
    if theirs is not None and (ours is None or ours.weights != theirs.weights):
        raise InputError(
            f"{checkpoint}: its base, {theirs.name}, differs from that of the training; accepted: "
            f"weights with the hash {theirs.weights}"
        )
