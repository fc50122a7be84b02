"""Image classifiers of timm's, with their classes, from the hub or a file of weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.data import resolve_model_data_config
from timm.models import load_state_dict
from torch import Tensor, nn

from lightning_modules.models.vit import ViTClassifier
from lightning_modules.models.vit_backbone import class_layers, class_names_of, create_backbone
from lightning_modules.models.weights_file import about_weights
from lightning_modules.utils.errors import InputError, short_message
from lightning_modules.utils.timm_names import check_published_name


class PublishedViT(ViTClassifier):
    """A model of timm's to explain; of one output, too, which is a number."""

    is_trained_here = False


def timm_classifier(name: str) -> ViTClassifier:
    """timm's ``NAME`` with its weights from the hub, or ``NAME@FILE`` with those of a file.

    Number of classes and size of the pictures are those that the file's head and position
    embeddings have; mean, std and interpolation those of the model. A file of ``train.py export``
    says all of this itself, and the names of its classes.

    Raises:
        ValueError, OSError: there is no such model or file, or they do not fit each other.
    """
    name, _, weights = name.partition("@")
    check_published_name(name)
    about = about_weights(weights) if weights else None
    if about is not None:
        return exported_classifier(name, weights, about)
    # Of weights a model that has a head, if its own has none: to find the layers of classes.
    model = create_backbone(name, 1 if weights else None, pretrained=False, options={})
    config = resolve_model_data_config(model)
    classes, size = model.num_classes, config["input_size"][-1]
    if weights:
        classes, size = head_and_size(model, weights, size)
    if classes == 0:
        raise InputError(
            f"--timm {name}: its weights have no classes; accepted: a model with a classifier, or "
            "NAME@FILE with a file of weights that has one"
        )
    input_config = {
        "input_size": [3, size, size],
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "interpolation": config["interpolation"],
        "crop_pct": config["crop_pct"],
        "crop_mode": config["crop_mode"],
    }
    try:
        classifier = PublishedViT(
            class_names_of(classes),
            input_config,
            name=name,
            pretrained=not weights,
            weights=weights or None,
            # Of one output: a regression, or a classifier of two classes. Nothing says which.
            task="multiclass" if classes > 1 else "regression",
        ).eval()
    except InputError as error:
        reason = error.__cause__
        if weights or not isinstance(reason, (OSError, RuntimeError)):
            raise
        raise InputError(
            f"--timm {name}: its weights cannot be had from the hub ({short_message(reason)}); "
            "accepted: NAME@FILE with a file of weights"
        ) from reason
    return classifier


def exported_classifier(name: str, weights: str, about: Mapping[str, Any]) -> ViTClassifier:
    """timm's model of that name as ``train.py export`` has written it, with its classes.

    Raises:
        InputError: the file is of another model.
    """
    theirs = about["model"].get("name")
    if theirs is None or theirs != name.partition(".")[0]:
        called = theirs or f"a model of the kind {about['kind']}"
        accepted = f"--timm {theirs}@{weights}" if theirs else "weights of a model of timm"
        raise InputError(f"--timm {name}@{weights}: they are of {called}; accepted: {accepted}")
    return PublishedViT(
        about["class_names"],
        about["input_config"],
        name=name,
        weights=weights,
        model_options=about["model"]["model_options"],
        task=about["task"],
    ).eval()


def head_and_size(model: nn.Module, weights: str, size: int) -> tuple[int, int]:
    """Number of classes and size of the pictures of a file of a model's weights."""
    if not Path(weights).is_file():
        raise FileNotFoundError(f"--timm ...@{weights}: no such file")
    try:
        state = load_state_dict(weights, weights_only=True)
        classes = len(state[f"{class_layers(model)[0]}.weight"])
        size = size_of_pictures(model, state, size)
    except Exception as error:  # whatever a damaged or hostile file makes its reader raise
        raise InputError(
            f"--timm ...@{weights}: no weights of a classifier ({short_message(error)}); accepted: "
            "a file of weights with its head"
        ) from error
    return classes, size


def size_of_pictures(model: nn.Module, state: Mapping[str, Tensor], size: int) -> int:
    """That of the position embeddings in ``state``; ``size``, the model's, where they are its own.

    Raises:
        ValueError: they are not those of square pictures.
    """
    own, theirs = getattr(model, "pos_embed", None), state.get("pos_embed")
    if own is None or theirs is None or own.shape == theirs.shape or theirs.ndim != 3:
        return size
    prefix = 0 if getattr(model, "no_embed_class", True) else model.num_prefix_tokens
    patches = theirs.shape[1] - prefix
    side = math.isqrt(patches)
    if side**2 != patches:
        raise ValueError(f"its pos_embed is of {patches} patches, which make no square")
    return side * (size // math.isqrt(own.shape[1] - prefix))
