"""What of an experiment does not go together, known before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_modules.models import class_names
from lightning_modules.models.base_weights import base_in, check_base
from lightning_modules.models.classifier import Classifier
from lightning_modules.utils.checkpoint_files import WRITTEN_BY_TRAIN
from lightning_modules.utils.errors import InputError, as_input_error
from lightning_modules.utils.terminal import tell


def check_model_options(options: Mapping[str, Any] | None) -> None:
    """Raises an InputError that names the first null of a new run's ``model.model_options``.

    timm would drop it without a word.
    """
    for option, value in (options or {}).items():
        if value is None:
            raise InputError(
                f"model.model_options.{option} is null; accepted: a value, or without {option}"
            )


def say_if_prepared_otherwise(config: Mapping[str, Any]) -> None:
    """Tell where pictures are not prepared as a named model of Hugging Face's has them."""
    model, data = config["model"], config["data"]
    is_named = model["kind"] == "hf_image" and model.get("name") is not None
    if is_named and "transforms_of" in data and data["transforms_of"] is None:
        tell(
            "data.transforms_of is null: pictures have ImageNet's mean and std; "
            f"data.transforms_of={model['name']} prepares them as the model's image processor does"
        )


def check_kinds(
    input_config: Mapping[str, Any], data: str, model: str, kinds: Mapping[str, type[Classifier]]
) -> None:
    """Raises an InputError where a kind of model cannot read a kind of data; both by name.

    ``kinds``: the models that there are.
    """
    known = {key for kind in kinds.values() for key in kind.reads}
    there = known & set(input_config)
    if kinds[model].reads and set(kinds[model].reads) != there:
        fitting = [name for name, kind in kinds.items() if kind.reads and set(kind.reads) == there]
        accepted = f"model.kind={' or '.join(fitting)}" if fitting else "other data"
        raise InputError(f"data.kind={data} with model.kind={model}; accepted with it: {accepted}")


def check_one_task(config: Mapping[str, Any]) -> None:
    """Raises an InputError where data and model are of two tasks, or true numbers are rounded."""
    precision = str(config["trainer"].get("precision"))
    if config["task"] == "regression" and precision in ("bf16-true", "16-true"):
        raise InputError(
            f"trainer.precision is {precision}, which rounds the true numbers of a regression; "
            "accepted: 32-true, 64-true, or mixed as bf16-mixed"
        )
    tasks = {section: config[section]["task"] for section in ("data", "model")}
    if set(tasks.values()) != {config["task"]}:
        said = ", ".join(f"{section}.task is {task}" for section, task in tasks.items())
        raise InputError(f"{said}; accepted: what task says, {config['task']}")


def check_goes_on(model: Classifier, state: Mapping[str, Any], checkpoint: Path) -> None:
    """Whether a model, as its options make it, can go on from what is in a checkpoint.

    Raises:
        InputError: the data's classes or inputs are others; weights are missing, unknown or of
            another shape; or the optimizer's groups are others, whose learning rates and decays a
            resume takes from the checkpoint.
    """
    check_same_data(model, state["hyper_parameters"], checkpoint)
    check_base(model.base, base_in(state, checkpoint), checkpoint)
    check_kept(model, state["hyper_parameters"], "--resume", f"as it was for {checkpoint}")
    ours, theirs = model.state_dict(), state["state_dict"]
    differ = [
        f"{name} is {shape_of(theirs.get(name))} there, {shape_of(ours.get(name))} here"
        for name in ours | theirs
        if shape_of(ours.get(name)) != shape_of(theirs.get(name))
    ]
    if differ:
        raise InputError(
            f"model: it is not the model of {checkpoint}: {len(differ)} of the weights differ, "
            f"e.g. {differ[0]}; accepted with --resume: the model options that the run began with"
        )
    with as_input_error(f"{checkpoint}: it is broken, its optimizer_states", WRITTEN_BY_TRAIN):
        (optimizer,) = state["optimizer_states"]
        trained = [
            (len(group["params"]), group["initial_lr"], group["weight_decay"])
            for group in optimizer["param_groups"]
        ]
    to_train = [(len(g["params"]), g["lr"], g["weight_decay"]) for g in model.parameter_groups()]
    if torch.tensor(trained).shape != torch.tensor(to_train).shape or not torch.allclose(
        torch.tensor(trained), torch.tensor(to_train), rtol=1e-6, atol=0
    ):
        raise InputError(
            "model: a resumed run trains the parameters that it began with, at their learning "
            "rates and decays; accepted with --resume: lr, layer_decay, weight_decay and "
            f"freeze_backbone as they were for {checkpoint}"
        )


def check_kept(model: Classifier, began: Mapping[str, Any], given: str, of: str) -> None:
    """Raises an InputError where an option changes what a model makes of the same weights.

    Args:
        began: hyper-parameters of the model that the weights are from.
        given: the option that they are taken by.
        of: where they are from, in words.
    """
    for option, default in model.kept.items():
        ours, theirs = model.hparams.get(option), began.get(option, default)
        if ours != theirs:
            raise InputError(f"model.{option} is {ours}; accepted with {given}: {theirs}, {of}")


def check_same_data(model: Classifier, trained: Mapping[str, Any], checkpoint: Path) -> None:
    """Whether the data bring the classes and the inputs that a checkpoint was trained on."""
    with as_input_error(f"{checkpoint}: it is broken, its hyper_parameters", WRITTEN_BY_TRAIN):
        theirs, inputs = list(trained["class_names"]), dict(trained["input_config"])
    ours = model.hparams.class_names
    if not class_names.are_same(ours, theirs):
        raise InputError(
            f"data: the classes are not those of {checkpoint}: "
            f"{class_names.difference(ours, theirs)}; accepted with --resume: the classes that the "
            "run began with, in their order"
        )
    check_inputs(
        model.hparams.input_config, inputs, f"accepted with --resume: that of {checkpoint}"
    )


def check_inputs(ours: Mapping[str, Any], theirs: Mapping[str, Any], accepted: str) -> None:
    """Whether data make inputs as a model was trained on, each an ``input_config``."""
    for key in theirs:
        if key != "pairs" and theirs[key] != ours.get(key):
            said = f"{ours.get(key)!r:.60}", f"{theirs[key]!r:.60}"
            raise InputError(f"the data's {key} is {said[0]}; {accepted}, {said[1]}")
    wanted = theirs.get("pairs", False)  # None: either
    if wanted is not None and wanted != ours.get("pairs", False):
        kinds = ("pairs of", "single") if ours.get("pairs") else ("single", "pairs of")
        raise InputError(f"the data are {kinds[0]} texts; {accepted}, {kinds[1]} texts")


def shape_of(weight: object) -> str:
    return str(list(weight.shape)) if isinstance(weight, torch.Tensor) else "missing"
