"""The classes of a model, and what its logits mean, by its configuration."""

from __future__ import annotations

from transformers import PreTrainedConfig

from lightning_modules.utils.errors import InputError

TASKS = {  # of Hugging Face's problem_type
    "single_label_classification": "multiclass",
    "multi_label_classification": "multilabel",
    "regression": "regression",
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


def task_of(given: str, config: PreTrainedConfig, classes: int) -> str:
    """What a model's logits mean: a name in :data:`lightning_modules.tasks.TASKS`.

    A model of one output that names no problem_type is a regression, as it is where transformers
    trains it.
    """
    problem = config.problem_type
    if problem is None:
        return "multiclass" if classes > 1 else "regression"
    if problem not in TASKS:
        raise InputError(
            f"{given}: its problem_type is {problem!r}; accepted: null, {', '.join(TASKS)}"
        )
    return TASKS[problem]


def problem_type_of(task: str) -> str | None:
    """What Hugging Face calls a task; None for one that it has no name for."""
    return next((problem for problem, name in TASKS.items() if name == task), None)
