"""Trained classifiers, from their checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_modules.models.base_weights import base_in, check_base
from lightning_modules.models.classifier import CLASSIFIERS, Classifier
from lightning_modules.utils.checkpoint_files import WRITTEN_BY_TRAIN, load_data
from lightning_modules.utils.errors import InputError, as_input_error
from lightning_modules.utils.options import arguments

PARTS = {"state_dict": dict, "hyper_parameters": dict}  # what a classifier is made of
PARTS_TO_RESUME = PARTS | {
    "epoch": int,
    "global_step": int,
    "without_sources": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks": dict,
}


def read_checkpoint(checkpoint: Path, parts: Mapping[str, type] = PARTS) -> dict[str, Any]:
    """What is in a checkpoint of ours. A checkpoint is data: it runs no code.

    Raises:
        InputError: the file is broken, of another program, or would run code; or one of the
            ``parts`` is not there.
        UnknownName: its model is of a kind that is not registered.
    """
    accepted = f"accepted: {WRITTEN_BY_TRAIN}"
    state = load_data(checkpoint, accepted)
    kind = state.get("kind") if isinstance(state, dict) else None
    if not isinstance(kind, str):
        raise InputError(f"{checkpoint}: it is of another program; {accepted}")
    CLASSIFIERS.find(kind, f"{checkpoint}: its model is of the kind {kind!r}")
    for name, type_ in parts.items():
        if not isinstance(state.get(name), type_):
            problem = f"it is broken ({name} is missing, or no {type_.__name__})"
            raise InputError(f"{checkpoint}: {problem}; {accepted}")
    return state


def load_classifier(checkpoint: Path) -> Classifier:
    """The classifier in a checkpoint, in evaluation, its adapters merged into its weights.

    Errors are those of :func:`read_checkpoint`. InputError as well where the checkpoint is of
    adapters, and their base is missing or another.
    """
    state = read_checkpoint(checkpoint)
    cls = CLASSIFIERS[state["kind"]]
    known = arguments(cls)  # other versions have others
    options = {name: x for name, x in state["hyper_parameters"].items() if name in known}
    broken, base = (f"{checkpoint}: it is broken", WRITTEN_BY_TRAIN), base_in(state, checkpoint)
    whole = broken
    if base is not None:
        whole = f"{checkpoint}: its base, {base.name}", "the base that it was trained on, in reach"
    with as_input_error(*whole):
        module = cls(**options | ({} if base else cls.no_sources))
    check_base(module.base, base, checkpoint)
    with as_input_error(*broken):
        module.load_state_dict(state["state_dict"])
        module.eval().check_inputs()
    module.merge()
    module.earlier_classes = state.get("teacher", {}).get("class_names", ())
    return module
