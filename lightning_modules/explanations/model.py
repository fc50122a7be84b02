"""The classifier that is to be explained, where it is computed, and whether data fit it."""

from __future__ import annotations

import argparse
import os

import torch

from lightning_modules.data import DataModule
from lightning_modules.models import class_names
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.models.classifier import Classifier
from lightning_modules.models.fit_checks import check_inputs
from lightning_modules.models.published import hf_classifier, timm_classifier
from lightning_modules.utils.checkpoint_files import find_checkpoint
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.terminal import tell


def chosen_model(arguments: argparse.Namespace) -> Classifier:
    if arguments.timm is not None:
        return timm_classifier(arguments.timm)
    if arguments.hf is not None:
        return hf_classifier(arguments.hf)
    return load_classifier(find_checkpoint(arguments.checkpoint))


def chosen_device(name: str) -> torch.device:
    """``auto`` is an accelerator if there is one; of several, one for each process of torchrun."""
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return (
            torch.device(found.type, int(os.environ.get("LOCAL_RANK", 0)))
            if found
            else torch.device("cpu")
        )
    try:
        there = torch.empty(0, device=name)
        there.cpu()  # what is on "meta" cannot be had
        return there.device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: {reason}; accepted: auto, cpu, cuda, mps") from None


def check_fit(module: Classifier, data: DataModule, named: bool) -> None:
    """Whether the data bring the classes and inputs that the model was trained on.

    Where the model's classes are not ``named`` (weights of timm's or Hugging Face's without names),
    the data's names are taken in their order, which is told.
    """
    if module.readings.keys() != module.sources.keys():
        raise InputError(
            f"the model reads its input {len(module.readings)} times, with a map of each, and the "
            "protocols score one; accepted: a classifier that reads it once"
        )
    if data.task != module.task.name:
        raise InputError(
            f"the labels of the data are {data.task}, and the model is {module.task.name}; "
            f"accepted: data of the model's task (task={module.task.name} in a run's config)"
        )
    ours, theirs = module.hparams.class_names, data.class_names
    if not class_names.are_same(ours, theirs):
        if named or len(ours) != len(theirs):
            raise InputError(
                f"the data's classes are not the model's: {class_names.difference(theirs, ours)}; "
                "accepted: data of the model's classes, in their order"
            )
        listed = ", ".join(theirs[:5]) + ", ..." * (len(theirs) > 5)
        text = f"the model does not name its classes; the data's are taken in their order: {listed}"
        tell(f"explain.py: {text}")
    check_inputs(data.input_config, module.hparams.input_config, "accepted: the model's")
