"""Classifiers that were trained elsewhere: timm's and Hugging Face's, with their classes."""

from __future__ import annotations

import math
from pathlib import Path

import transformers
from timm.data import resolve_model_data_config
from timm.models import load_state_dict
from transformers import AutoConfig, AutoModelForSequenceClassification

from lightning_modules.bert import BertClassifier
from lightning_modules.data.imagenet import imagenet_names
from lightning_modules.data.text_tokenizers import input_config_of, load_tokenizer
from lightning_modules.errors import InputError, said
from lightning_modules.pretrained import locate
from lightning_modules.vit import ViTClassifier, create_backbone, heads_of

MOST_TOKENS = 512  # of a text, where its tokenizer names no limit


def timm_classifier(name: str) -> ViTClassifier:
    """timm's ``NAME`` with its weights from the hub, or ``NAME@FILE`` with those of a file.

    Number of classes and size of the pictures are those that the file's head and position
    embeddings have; mean, std and interpolation those of the model.

    Raises:
        ValueError, OSError: there is no such model or file, or they do not fit each other.
    """
    name, _, weights = name.partition("@")
    model = create_backbone(name, None, pretrained=False, options={})
    config = resolve_model_data_config(model)
    classes, size = model.num_classes, config["input_size"][-1]
    if weights:
        classes, size = head_and_size(model, weights, size)
    input_config = {
        "input_size": [3, size, size],
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "interpolation": config["interpolation"],
        "crop_pct": config["crop_pct"],
        "crop_mode": config["crop_mode"],
    }
    try:
        return ViTClassifier(
            class_names_of(classes),
            input_config,
            name=name,
            pretrained=not weights,
            weights=weights or None,
        ).eval()
    except InputError as error:
        reason = error.__cause__
        if weights or not isinstance(reason, (OSError, RuntimeError)):
            raise
        raise InputError(
            f"--timm {name}: its weights cannot be had from the hub ({said(reason)}); accepted: "
            "NAME@FILE with a file of weights"
        ) from reason


def head_and_size(model, weights: str, size: int) -> tuple[int, int]:
    """Number of classes and size of the pictures of a file of a ViT's weights."""
    if not Path(weights).is_file():
        raise FileNotFoundError(f"--timm ...@{weights}: no such file")
    try:
        state = load_state_dict(weights, weights_only=True)
        head = next(iter(heads_of(model)))
        classes = len(state[f"{head}.weight"])
    except Exception as error:  # whatever a damaged or hostile file makes its reader raise
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--timm ...@{weights}: no weights of a classifier ({reason}); accepted: a file of "
            "weights with its head"
        ) from error
    if "pos_embed" in state and state["pos_embed"].shape != model.pos_embed.shape:
        prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        side = math.isqrt(state["pos_embed"].shape[1] - prefix)
        size = side * model.patch_embed.patch_size[0]
    return classes, size


def class_names_of(classes: int) -> list[str]:
    """ImageNet's names for a thousand classes; else numbers."""
    return imagenet_names() if classes == 1000 else [str(label) for label in range(classes)]


def hf_classifier(name: str) -> BertClassifier:
    """A text classifier of Hugging Face, by hub id, folder or ``package:NAME/FOLDER``.

    Raises:
        ValueError, OSError: there is none, or it has no head that was trained.
    """
    accepted = "accepted: the hub id or folder of a text classifier with its tokenizer"
    transformers.logging.set_verbosity_error()  # what is missing is told here, in one line
    try:
        config = AutoConfig.from_pretrained(locate(name))
        _, found = AutoModelForSequenceClassification.from_pretrained(
            locate(name), output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"--hf {name}: {str(error).splitlines()[0]}; {accepted}") from error
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])[0]
        raise InputError(f"--hf {name}: it has no trained head (no {missing}); {accepted}")
    tokenizer = load_tokenizer(name)
    longest = min(tokenizer.model_max_length, MOST_TOKENS)
    names = [config.id2label[label] for label in range(config.num_labels)]
    return BertClassifier(names, input_config_of(tokenizer, longest, None), name=name).eval()
