"""The classes of a model, and what makes probabilities of its logits, by its configuration."""

from __future__ import annotations

from transformers import PreTrainedConfig

from lightning_modules.utils.errors import InputError

ACTIVATIONS = {  # of Hugging Face's problem_type
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": None,
}


def class_names_in(given: str, config: PreTrainedConfig) -> list[str]:
    """The names that a configuration gives to labels 0, 1, ..."""
    if config.id2label is None:  # what PVT's has where nobody named them
        return [f"LABEL_{label}" for label in range(config.num_labels)]
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
