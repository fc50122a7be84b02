"""Weights that a new run begins with: those of an earlier run, or of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timm.models import load_state_dict
from torch import Tensor, nn

from lightning_modules.models import class_names as classes
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.models.weights_file import about_weights
from lightning_modules.utils.checkpoint_files import find_checkpoint, load_data
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.terminal import tell

OPTION = "model.weights"


@dataclass(frozen=True)
class Weights:
    """The state dict of a backbone.

    ``hyper_parameters`` are those of the run that trained it, its ``class_names`` among them, or
    what a file of ``train.py export`` has of them; None for another file, which has no names.
    """

    state: dict[str, Tensor]
    hyper_parameters: dict[str, Any] | None = None


def read_weights(path: str, kind: str) -> Weights:
    """Weights of a run of train.py, of one of its checkpoints, or of any file that timm reads.

    Args:
        path: folder of a run, checkpoint or file of weights.
        kind: of the classifier that they are for, ``vit`` or ``bert``.

    Raises:
        FileNotFoundError: there is no such file or folder, or no checkpoint in it.
        InputError: it is of another kind of classifier.
        ValueError: it cannot be read as weights.
    """
    if Path(path).is_dir() or Path(path).suffix == ".ckpt":
        found = load_data(find_checkpoint(path, OPTION), "accepted: a checkpoint of train.py")
        if isinstance(found, Mapping) and "kind" in found:
            check_kind(path, found["kind"], kind)
            state = found["state_dict"].items()
            if found["hyper_parameters"].get("lora"):
                state = load_classifier(find_checkpoint(path, OPTION)).state_dict().items()
            backbone = {
                name.removeprefix("backbone."): value
                for name, value in state
                if name.startswith("backbone.")
            }
            return Weights(backbone, found["hyper_parameters"])
    if not Path(path).is_file():
        raise FileNotFoundError(f"{OPTION} is {path}: no such file")
    about = about_weights(path)
    if about is not None:
        check_kind(path, about["kind"], kind)
    try:
        return Weights(load_state_dict(path, weights_only=True), about)
    except Exception as error:  # whatever a damaged or hostile file makes its reader raise
        reason = str(error).splitlines()[0]
        raise ValueError(f"{OPTION} {path} cannot be read as weights: {reason}") from error


def check_kind(path: str, theirs: str, kind: str) -> None:
    """Raises an InputError where weights are those of another kind of classifier."""
    if theirs != kind:
        raise InputError(f"{OPTION} {path}: the run is of kind {theirs}; accepted: one of {kind}")


def with_head_for(
    weights: Weights,
    own: Mapping[str, Tensor],
    head: tuple[str, ...],
    names: Sequence[str],
    given: str = OPTION,
) -> dict[str, Tensor]:
    """The state dict with its head's rows in the order of ``names``, or without its head.

    A head of other classes is left out, and so is one of another number of classes whose names are
    not known. Either is told in a line, and so is a head that is kept without knowing its names.

    Args:
        weights: as they were read.
        own: state dict that they are to be loaded into.
        head: prefixes of the names of the head's parameters.
        names: the classes of the new run.
        given: where the weights are from, in the words of a config.
    """
    of_head = {name for name in weights.state if name.startswith(head) and name in own}
    if not of_head:
        return weights.state
    theirs = weights.hyper_parameters and weights.hyper_parameters["class_names"]
    if theirs is not None:
        order = classes.places(names, theirs)
        if order is not None:
            return weights.state | {name: weights.state[name][order] for name in of_head}
        why = f"its classes are others ({classes.difference(names, theirs)})"
    elif all(weights.state[name].shape == own[name].shape for name in of_head):
        tell(f"{given}: the head is kept; its {len(names)} classes have no names there")
        return weights.state
    else:
        why = "it has another number of classes"
    tell(f"{given}: the head is left out, {why}")
    return {name: value for name, value in weights.state.items() if name not in of_head}


def load_into(
    backbone: nn.Module, path: str, state: Mapping[str, Tensor], head: tuple[str, ...]
) -> None:
    """Load a state dict, from which the head alone may be missing.

    Raises:
        ValueError: weights are missing, unknown, or of another shape.
    """
    try:
        missing, unexpected = backbone.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise ValueError(f"{OPTION} {path} do not fit the model: {reason}") from error
    missing = [name for name in missing if not name.startswith(head)]
    if missing or unexpected:
        raise ValueError(
            f"{OPTION} {path} do not fit the model: {len(missing)} of its parameters are "
            f"missing and {len(unexpected)} are unknown, e.g. {(missing + unexpected)[0]}"
        )
