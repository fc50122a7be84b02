"""Classifiers that were trained elsewhere: timm's and Hugging Face's, with their classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from timm.data import resolve_model_data_config
from timm.models import load_state_dict
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from lightning_modules.data.texts.tokenizers import input_config_of, read_tokenizer
from lightning_modules.models.bert import BertClassifier
from lightning_modules.models.hf_checks import check_vocabulary, positions_of
from lightning_modules.models.vit import ViTClassifier, class_names_of, create_backbone, heads_of
from lightning_modules.utils.errors import InputError, as_input_error, short_message
from lightning_modules.utils.hub import locate

MOST_TOKENS = 512  # of a text: attention maps grow with their square
ACTIVATIONS = {  # of Hugging Face's problem_type
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": None,
}
TEXT_CLASSIFIER = "the hub id or folder of a text classifier with its tokenizer"


class PublishedViT(ViTClassifier):
    """A model of timm's to explain; of one output, too, which is a number."""

    fewest_classes = 1


class PublishedBert(BertClassifier):
    """A text classifier of Hugging Face's to explain; of one output, too.

    Args:
        class_names, input_config: as of :class:`BertClassifier`.
        backbone: the model.
        activation: a key of :data:`lightning_modules.explanations.results.ACTIVATIONS`, or None.
    """

    fewest_classes = 1
    not_kept = ("backbone", "activation")

    def __init__(
        self,
        class_names: list[str],
        input_config: dict[str, Any],
        backbone: PreTrainedModel,
        activation: str | None,
    ) -> None:
        super(BertClassifier, self).__init__(class_names, input_config)  # it would make one
        self.backbone = backbone
        self.activation = activation


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
        ).eval()
    except InputError as error:
        reason = error.__cause__
        if weights or not isinstance(reason, (OSError, RuntimeError)):
            raise
        raise InputError(
            f"--timm {name}: its weights cannot be had from the hub ({short_message(reason)}); "
            "accepted: NAME@FILE with a file of weights"
        ) from reason
    if classes == 1:  # a regression, or a classifier of two classes: nothing says which
        classifier.activation = None
    return classifier


def head_and_size(model: nn.Module, weights: str, size: int) -> tuple[int, int]:
    """Number of classes and size of the pictures of a file of a ViT's weights."""
    if not Path(weights).is_file():
        raise FileNotFoundError(f"--timm ...@{weights}: no such file")
    try:
        state = load_state_dict(weights, weights_only=True)
        head = next(iter(heads_of(model)))
        classes = len(state[f"{head}.weight"])
        size = size_of_pictures(model, state, size)
    except Exception as error:  # whatever a damaged or hostile file makes its reader raise
        raise InputError(
            f"--timm ...@{weights}: no weights of a classifier ({short_message(error)}); accepted: "
            "a file of weights with its head"
        ) from error
    return classes, size


def size_of_pictures(model: nn.Module, state: Mapping[str, Tensor], size: int) -> int:
    """That of the position embeddings in ``state``; ``size`` where they are the model's own.

    Raises:
        ValueError: they are not those of square pictures.
    """
    own, theirs = getattr(model, "pos_embed", None), state.get("pos_embed")
    if own is None or theirs is None or own.shape == theirs.shape:
        return size
    patches = theirs.shape[1] - (0 if model.no_embed_class else model.num_prefix_tokens)
    side = math.isqrt(patches)
    if side**2 != patches:
        raise ValueError(f"its pos_embed is of {patches} patches, which make no square")
    return side * model.patch_embed.patch_size[0]


def hf_classifier(name: str) -> BertClassifier:
    """A text classifier of Hugging Face, by hub id, folder or ``package:NAME/FOLDER``.

    Raises:
        ValueError, OSError: there is none, it has no head that was trained, or no tokenizer that
            fits it.
    """
    given = f"--hf {name}"
    transformers.logging.set_verbosity_error()  # what is missing is told here, in one line
    model = trained_model(given, locate(name))
    class_names = class_names_in(given, model.config)
    activation = activation_of(given, model.config, len(class_names))
    try:
        tokenizer = read_tokenizer(locate(name))
    except InputError as error:
        raise InputError(f"{given}: {error}; accepted: {TEXT_CLASSIFIER}") from error
    check_vocabulary(given, model, tokenizer)
    longest = longest_text(given, tokenizer, positions_of(model))
    input_config = input_config_of(tokenizer, longest, None)
    classifier = PublishedBert(class_names, input_config, model, activation).eval()
    with as_input_error(f"{given}: it cannot classify a text", TEXT_CLASSIFIER), torch.no_grad():
        shape = tuple(classifier(classifier.largest_batch()).shape)
        if shape != (1, len(class_names)):
            raise ValueError(f"{len(class_names)} classes, and logits of shape {list(shape)}")
    return classifier


def longest_text(given: str, tokenizer: PreTrainedTokenizerFast, positions: float) -> int:
    """How many tokens of a text are read."""
    limit, least = tokenizer.model_max_length, tokenizer.num_special_tokens_to_add() + 1
    if not isinstance(limit, (int, float)) or not min(limit, positions) >= least:
        raise InputError(
            f"{given}: its tokenizer makes texts of {limit} tokens (model_max_length), and the "
            f"model takes {positions}; accepted: {least} or more"
        )
    return int(min(limit, positions, MOST_TOKENS))


def trained_model(given: str, source: str) -> PreTrainedModel:
    """The model of a hub id or folder, in float32, if all of it was trained to classify texts."""
    with as_input_error(given, TEXT_CLASSIFIER):
        model, found = AutoModelForSequenceClassification.from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True, dtype=torch.float32
        )
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])[0]
        raise InputError(
            f"{given}: it has no trained head (no {missing}); accepted: {TEXT_CLASSIFIER}"
        )
    if found["mismatched_keys"]:
        key, saved, wanted = sorted(found["mismatched_keys"])[0]
        raise InputError(
            f"{given}: its {key} has the shape {list(saved)}, and its config.json asks for "
            f"{list(wanted)}; accepted: {TEXT_CLASSIFIER}"
        )
    # Some heads of other tasks have the same weights.
    saved = model.config.architectures or []
    others = [kind for kind in saved if "For" in kind and "ForSequenceClassification" not in kind]
    if others:
        raise InputError(f"{given}: it is a {others[0]}; accepted: {TEXT_CLASSIFIER}")
    return model


def class_names_in(given: str, config: PreTrainedConfig) -> list[str]:
    """The names that a configuration gives to labels 0, 1, ..."""
    labels = sorted(config.id2label)
    if labels != list(range(len(labels))):
        named = ", ".join(map(str, labels))
        raise InputError(
            f"{given}: its id2label names the labels {named}; accepted: 0 to {len(labels) - 1}"
        )
    return [str(config.id2label[label]) for label in labels]


def activation_of(given: str, config: PreTrainedConfig, classes: int) -> str | None:
    """What makes probabilities of a model's logits: a key of ``results.ACTIVATIONS``, or None.

    A model of one output that names no problem_type is a regression, as it is where transformers
    trains it.
    """
    problem = config.problem_type
    if problem is None:
        return "softmax" if classes > 1 else None
    if problem not in ACTIVATIONS:
        raise InputError(
            f"{given}: its problem_type is {problem!r}; accepted: null, {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[problem]
