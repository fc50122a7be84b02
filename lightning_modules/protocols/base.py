"""What a protocol is, and the numbers that it gives."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

import relprop
from lightning_modules.data import DataModule
from lightning_modules.metrics import SampledMetric
from lightning_modules.modalities import MODALITIES, Modality
from lightning_modules.models.classifier import Classifier
from lightning_modules.protocols.explainer import Explainer
from lightning_modules.utils.errors import InputError
from relprop.registry import Registry

MODEL = "model"  # what is scored where it is no method

# Columns of the paper's tables 1 and 2.
IN_PAPER = ("rollout", "raw_attention", "gradcam", "lrp", "partial_lrp", "transformer_attribution")

# Which values are better: a number that is greater where they are.
BETTER: dict[str, Callable[[Tensor], Tensor]] = {
    "higher": lambda values: values,
    "lower": lambda values: -values,
}


@dataclass(frozen=True)
class Column:
    """A column of the table: which score it shows, and which values of it are better.

    Attributes:
        heading: in the table.
        name: of the score.
        x: its place on a curve, if it is of one.
        paper: what the paper reports for it, by method.
        better: one of :data:`BETTER`; None: no value is better than another.
    """

    heading: str
    name: str
    x: float | None = None
    paper: Mapping[str, float] = field(default_factory=dict)
    better: str | None = None


class Protocols(Registry[type["Protocol"]]):
    """Protocols by name, which each of them then has."""

    def add(self, name: str, thing: type[Protocol], source: Callable) -> None:
        super().add(name, thing, source)
        thing.name = name


PROTOCOLS = Protocols("protocol")


class Protocol:
    """A way to score explanation methods on a data set, or the model itself (``of_model``).

    A subclass says which samples it needs (:meth:`samples`), by which metrics a method is measured
    (:meth:`metrics`), and what a method's explanations of a batch are worth (:meth:`update`).
    Further arguments of its constructor, which have defaults, are options: protocol.KEY=VALUE on
    the command line.

    Attributes:
        source: the classifier's source whose relevance is scored.

    Raises:
        InputError: the classifier has no source of the ``modality``, or another task, or decides
            by more than a sample.
    """

    name: str  # in PROTOCOLS
    modality: str | tuple[str, ...] = ()  # of the source that it scores, in MODALITIES; (): of any
    tasks: tuple[str, ...] = ("multiclass",)  # those that it has a meaning for, in TASKS
    of_model: bool = False  # the model itself is scored, once, and no method
    title: str  # of the table
    columns: Sequence[Column]
    paper_data: str = ""  # the kind of data that the paper's figures are of
    curves: Mapping[str, str] = {}  # score, with a place for each of its numbers: title
    x_label: str = ""
    limit: int | None = None  # the first samples that it is of, unless told otherwise; None: all

    def __init__(self, module: Classifier, data: DataModule) -> None:
        self.module, self.data = module, data
        names = (self.modality,) if isinstance(self.modality, str) else self.modality or ()
        kinds = tuple(MODALITIES.find(name) for name in names)
        fitting = [name for name, x in module.sources.items() if isinstance(x, kinds or Modality)]
        if not fitting:
            there = " and ".join(f"{x.called}s" for x in module.sources.values())
            accepted = " or ".join(f"{kind.called}s" for kind in kinds)
            raise InputError(f"--protocol {self.name}: the data are {there}; accepted: {accepted}")
        if module.task.name not in self.tasks:
            raise InputError(
                f"--protocol {self.name}: the task of the model is {module.task.name}; accepted: "
                f"{' or '.join(self.tasks)}"
            )
        if not module.decides_by_sources:
            raise InputError(
                f"--protocol {self.name}: a model of the kind {module.kind} decides by more than "
                "the sample that is scored; accepted: a model that does not, such as vit"
            )
        self.source = fitting[0]

    def scored(
        self, methods: Sequence[str], every: Collection[str], compare: str | None = None
    ) -> list[str]:
        """What is scored of the ``methods`` asked for, by name; ``every``: those that there are.

        Where all are asked for, diagnoses are left out.

        Raises:
            InputError: it is the model, and some methods, or one to ``compare``, are asked for.
        """
        is_all = set(methods) == set(every)
        if not self.of_model:
            return [x for x in methods if not (is_all and is_diagnosis(x))]
        if compare is not None:
            raise InputError(
                f"--compare {compare}: --protocol {self.name} scores the model, and no method; "
                "accepted: no --compare"
            )
        if not is_all:
            raise InputError(
                f"--method {methods[0]}: --protocol {self.name} scores the model, and no method; "
                "accepted: no --method"
            )
        return [MODEL]

    def samples(self) -> Dataset:
        """The samples to score on. It costs nothing to ask.

        Raises:
            InputError: model or data lack what it takes.
        """
        raise NotImplementedError

    def prepare(self) -> None:
        """Make what all batches need, before the first."""

    def metrics(self, **options) -> dict[str, SampledMetric]:
        """Fresh metrics by name, for one method; ``options`` are torchmetrics' own."""
        raise NotImplementedError

    def begin(self, batch: Mapping[str, Any]) -> None:
        """What of a batch is the same for all methods."""

    def recordings(
        self, batch: Mapping[str, Any]
    ) -> Iterator[tuple[Classifier, relprop.Trace | None]]:
        """The models that a batch goes through, one after the other, each with its recording.

        All methods are updated with one of them before the next is made. None: it is not recorded.
        """
        yield self.module, None if self.of_model else self.module.record(batch)

    def update(self, metrics: Mapping[str, SampledMetric], explain: Explainer) -> None:
        """Score one method on the batch that ``explain`` explains, once a recording."""
        raise NotImplementedError


def is_diagnosis(method: str) -> bool:
    """Whether a method of the engine's is no map of reasons."""
    return method in relprop.METHODS and relprop.METHODS[method].diagnosis
