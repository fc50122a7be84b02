"""What labels mean: the loss, the metrics, what is explained, and how a decision is written."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_modules.utils.names import printable
from relprop import Explanation
from relprop.registry import Registry

TASKS: Registry[type[Task]] = Registry("task")

ACTIVATIONS = {  # what makes probabilities [..., C] of logits
    "softmax": lambda logits: logits.softmax(dim=-1),  # of classes, one of which is right
    "sigmoid": lambda logits: logits.sigmoid(),  # of labels, each of which may be
}
NAME = 18  # characters of a class above a map


@dataclass(frozen=True)
class Asked:
    """A question about watched samples: why this class?

    Attributes:
        title: what stands above the maps, with ``{}`` for the class.
        target: the class of each sample, [B]; None: the predicted one.
        of: the samples that it is asked of, bool [B]; None: all.
        scored: what the data know of the class says how good the maps are.
    """

    title: str
    target: Tensor | None
    of: Tensor | None = None
    scored: bool = False

    @property
    def of_any(self) -> bool:
        """Whether a sample is asked."""
        return self.of is None or bool(self.of.any())


@dataclass(frozen=True)
class Caption:
    """What stands above a map: the class, its number, and whether the model is mistaken.

    ``note``: what else is known of the sample, "" if nothing; above its input, where that is shown.
    """

    asked: str
    number: str
    wrong: bool = False
    note: str = ""

    def __str__(self) -> str:
        return ", ".join(filter(None, [self.asked, self.number, self.note]))


class Task(ABC):
    """What the labels of the data mean. A batch has them as ``label``.

    A subclass is registered in ``TASKS``. The arguments of its constructor after the first are the
    options of the model that it takes, with their defaults.

    Attributes:
        name: in ``TASKS``.
        activation: a key of ``ACTIVATIONS``; None where the logits are numbers of their own.
        monitor: the metric of validation that chooses the best epoch, and ``patience`` watches.
        mode: ``max`` where a higher one is better, else ``min``.
        fewest: the least number of classes or of numbers.
        of_class: the figure that is logged of each class; None: none is.
        decides: of logits one thing or another is decided, as :meth:`decision` has it.
        several: a sample may have several labels, or none: ``present`` and ``found`` say which.
        question: what stands above pictures of watched samples.

    Args:
        class_names: the classes, labels or numbers, in the order of the logits.
    """

    name: ClassVar[str]
    activation: ClassVar[str | None]
    monitor: ClassVar[str]
    mode: ClassVar[str] = "max"
    fewest: ClassVar[int] = 2
    of_class: ClassVar[str | None] = None
    decides: ClassVar[bool] = False
    several: ClassVar[bool] = False
    question: ClassVar[str] = "Why each class?"

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = list(class_names)

    # ----------------------------------------------------------------------------- training

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor, training: bool = False) -> Tensor:
        """The mean loss of logits [B, C]; what only training has is in it if ``training``."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """The figures of a split; they are updated by :meth:`decided` and :meth:`truth`."""

    def decided(self, logits: Tensor) -> Tensor:
        """What the metrics are given for logits [B, C]."""
        return logits

    def truth(self, labels: Tensor) -> Tensor:
        """What the metrics are given for the labels of a batch; as a right decision is."""
        return labels

    def decision(self, logits: Tensor) -> Tensor:
        """What is decided of logits [B, C]: a class, long [B], or of each label, bool [B, C]."""
        raise NotImplementedError

    def names_of(self, decision: Tensor) -> str:
        """The class, or the labels, that are decided for of one sample: "none" where none is."""
        found = [int(decision)] if decision.ndim == 0 else decision.nonzero()[:, 0].tolist()
        return ", ".join(printable(self.class_names[i]) for i in found) or "none"

    def counts(self) -> Metric | None:
        """Counts right and wrong decisions by class; None where there are no classes.

        Its value is [C, 5]: true positives, false positives, true negatives, false negatives, and
        samples of the class.
        """
        return None

    def by_class(self, counts: Tensor) -> Tensor:
        """The figure ``of_class`` of each class, [C], from the value of :meth:`counts`."""
        raise NotImplementedError

    # ------------------------------------------------------------------------- explanations

    @abstractmethod
    def asked(self, labels: Tensor | None, logits: Tensor) -> list[Asked]:
        """What is explained of samples, with labels if they have any, and logits [B, C]."""

    def present(self, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Where there are ``several``, the first, second, ... label of each sample.

        Each is a pair: which label it is, and where there is one, [B] both.
        """
        raise NotImplementedError

    def found(self, logits: Tensor) -> Tensor:
        """Where there are ``several``, True where a label is found, bool [..., C]."""
        raise NotImplementedError

    def number(self, logits: Tensor, target: int, label: Tensor | None) -> str:
        """What the model gives for one class or number, of logits [C] of a sample."""
        return f"p = {ACTIVATIONS[self.activation](logits)[target]:.2f}"

    def is_wrong(self, logits: Tensor, target: int, label: Tensor | None) -> bool:
        """True if the model is known to be mistaken about one class of a sample."""
        return False

    def caption(self, title: str, logits: Tensor, target: int, label: Tensor | None) -> Caption:
        """What stands above the map of one class of a sample, with logits [C]."""
        name = printable(self.class_names[target])
        name = name if len(name) <= NAME else name[: NAME - 1] + "…"
        wrong = self.is_wrong(logits, target, label)
        return Caption(title.format(name), self.number(logits, target, label), wrong)


def precise(logits: Tensor) -> Tensor:
    """Logits in float32 or float64: bf16 has three digits, too few to rank and to subtract by."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def rates(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision, recall and F1 of each class, [C] each, from the value of ``Task.counts``.

    NaN: precision where none was decided for the class, recall where there is no sample of it.
    """
    right, too_many, _, missed, samples = counts.T
    return right / (right + too_many), right / samples, 2 * right / (2 * right + too_many + missed)


def captions_of(
    explanations: Sequence[Explanation],
    titles: Sequence[str],
    task: Task,
    labels: Tensor | None = None,
    of: Sequence[Tensor | None] | None = None,
) -> list[list[Caption | None]]:
    """What stands above the maps of each explanation, one a sample.

    Args:
        explanations: each of B samples.
        titles: one an explanation, with ``{}`` for the class.
        task: what the logits mean.
        labels: of the samples, where they have any.
        of: the samples that each explanation is about, bool [B]; of the others it is None.
    """
    labels = labels if labels is None else labels.cpu()
    found = []
    for place, (explanation, title) in enumerate(zip(explanations, titles, strict=True)):
        about = None if of is None else of[place]
        logits, target = explanation.logits.cpu(), explanation.target.tolist()
        found.append(
            [
                task.caption(title, logits[i], x, None if labels is None else labels[i])
                if about is None or about[i]
                else None
                for i, x in enumerate(target)
            ]
        )
    return found


def make_task(name: str, class_names: Sequence[str], options: Mapping[str, Any]) -> Task:
    """A task, with those of the model's ``options`` that it takes.

    Raises:
        ValueError: there is no such task, there are too few classes, or an option that it does not
            take is given: one that is not its default in any task.
    """
    cls = TASKS.find(name, f"task is {name!r}")
    if len(class_names) < cls.fewest:
        least = f"{cls.fewest} class{'es' if cls.fewest > 1 else ''} or more"
        listed = ", ".join(map(repr, class_names)) or "none"
        raise ValueError(f"the classes are {listed}; accepted: {least}")
    taken = options_of(cls)
    for option, value in options.items():
        others = {other: options_of(x) for other, x in TASKS.items() if option in options_of(x)}
        if option not in taken and all(value != of[option] for of in others.values()):
            raise ValueError(
                f"{option} is {value!r}, and the task is {name}; accepted: {option} with "
                f"{' or '.join(others)}"
            )
    return cls(class_names, **{option: x for option, x in options.items() if option in taken})


def options_of(task: type[Task]) -> dict[str, Any]:
    """The options of the model that a task takes, with their defaults."""
    _, *options = inspect.signature(task).parameters.values()
    return {option.name: option.default for option in options}
