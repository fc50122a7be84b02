"""Tasks: what the labels of the data mean, and all that follows from it."""

from lightning_modules.tasks.base import (
    ACTIVATIONS,
    TASKS,
    Asked,
    Caption,
    Task,
    captions_of,
    make_task,
    precise,
    rates,
)
from lightning_modules.tasks.multiclass import Multiclass
from lightning_modules.tasks.multilabel import Multilabel
from lightning_modules.tasks.regression import Regression
from lightning_modules.tasks.weighting import balanced_weights

__all__ = [
    "ACTIVATIONS",
    "TASKS",
    "Asked",
    "Caption",
    "Multiclass",
    "Multilabel",
    "Regression",
    "Task",
    "balanced_weights",
    "captions_of",
    "make_task",
    "precise",
    "rates",
]
