"""What the protocols share: each batch is recorded once, and every method is scored on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import relprop
from lightning_modules.data import DataModule
from lightning_modules.metrics import SampledMetric
from lightning_modules.modalities.texts.explained import Explained, ExplainedTexts
from lightning_modules.models.classifier import Classifier
from lightning_modules.protocols.baselines import PEERS, explain_by_peer
from lightning_modules.protocols.shard import ALONE, Share
from lightning_modules.utils.errors import InputError

RANDOM = "random"  # relevance by the throw of a die: what a method has to beat
METHODS = (*relprop.METHODS, *PEERS, RANDOM)
# Columns of the paper's tables 1 and 2.
IN_PAPER = ("rollout", "raw_attention", "gradcam", "lrp", "partial_lrp", "transformer_attribution")


@dataclass(frozen=True)
class Explainer:
    """One method on one recorded batch: call it with the classes to explain."""

    module: Classifier
    trace: relprop.Trace
    batch: Mapping[str, Any]
    method: str
    options: Mapping[str, Any]

    def __call__(self, target: int | Tensor | None) -> Explained:
        """UnsupportedModel where relevance or logits are not finite: they have no score."""
        explained = self._explain(target)
        if not (explained.relevance.isfinite().all() and explained.logits.isfinite().all()):
            rows = self.batch.get("text_of_row", slice(None))
            where = self.trace.not_finite(explained.target[rows]) or "the method itself"
            raise relprop.UnsupportedModel(f"its relevance is not finite, first in {where}")
        return explained

    def _explain(self, target: int | Tensor | None) -> Explained:
        if self.method in PEERS:
            logits = self.module.logits(self.trace, self.batch)
            return explain_by_peer(self.module, self.batch, logits, target, self.method)
        method = "raw_attention" if self.method == RANDOM else self.method
        explained = self.module.explain_trace(
            self.trace, self.batch, target, method, **self.options
        )
        return self._random(explained) if self.method == RANDOM else explained

    def _random(self, explained: Explained) -> Explained:
        """Uniform relevance, a function of the index of the sample alone."""
        of_row = self.batch["index"][self.batch.get("text_of_row", slice(None))]
        shape = explained.relevance.shape[1:]
        noise = [torch.rand(shape, generator=torch.Generator().manual_seed(int(i))) for i in of_row]
        noise = torch.stack(noise).to(explained.relevance)
        if isinstance(explained, ExplainedTexts):
            return ExplainedTexts.of(self.batch, noise, explained.target, explained.logits)
        return replace(explained, relevance=noise)


@dataclass(frozen=True)
class Score:
    """One number of a table, with the ends of its 95% interval. ``x`` is its place on a curve."""

    method: str
    name: str
    x: float | None
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Column:
    """A column of the table: which score it shows; by method, what the paper reports for it."""

    heading: str
    name: str
    x: float | None = None
    paper: Mapping[str, float] = field(default_factory=dict)


class Protocol:
    """A way to score explanation methods on a data set.

    A subclass says which samples it needs (:meth:`dataset`), by which metrics a method is measured
    (:meth:`metrics`), and what a method's explanations of a batch are worth (:meth:`update`).
    """

    name: str
    title: str  # of the table
    columns: Sequence[Column]
    paper_data: str = ""  # the kind of data that the paper's figures are of
    curves: Mapping[str, str] = {}  # score, with a place for each of its numbers: title
    x_label: str = ""

    def __init__(self, module: Classifier, data: DataModule) -> None:
        self.module, self.data = module, data

    def dataset(self) -> Dataset:
        """The samples to score on; an InputError where model or data lack what it takes."""
        raise NotImplementedError

    def metrics(self, **options) -> dict[str, SampledMetric]:
        """Fresh metrics by name, for one method; ``options`` are torchmetrics' own."""
        raise NotImplementedError

    def begin(self, batch: Mapping[str, Any]) -> None:
        """What of a batch is the same for all methods."""

    def update(self, metrics: Mapping[str, SampledMetric], explain: Explainer) -> None:
        """Score one method on the batch that ``explain`` explains."""
        raise NotImplementedError


def values_of(metrics: Mapping[str, SampledMetric]) -> dict[tuple[str, float | None], float]:
    """Every number of a method's metrics, by name and place.

    Named metric/score, or as the score where there is one metric.
    """
    result = {}
    for of_metric, metric in metrics.items():
        for name, values in metric.score(metric.gathered()).items():
            full = f"{of_metric}/{name}" if len(metrics) > 1 else name
            places = metric.places if values.ndim else [None]
            result |= {
                (full, place): value
                for place, value in zip(places, values.reshape(-1).tolist(), strict=True)
            }
    return result


def scores_of(method: str, metrics: Mapping[str, SampledMetric]) -> list[Score]:
    """The numbers of :func:`values_of`, with their intervals."""
    ends = []
    for metric in metrics.values():
        for low, high in metric.intervals().values():
            ends += zip(low.reshape(-1).tolist(), high.reshape(-1).tolist(), strict=True)
    return [
        Score(method, name, place, value, low, high)
        for ((name, place), value), (low, high) in zip(
            values_of(metrics).items(), ends, strict=True
        )
    ]


@dataclass(frozen=True)
class Found:
    """What a batch has brought: rows by method and metric; why other methods do not apply."""

    rows: dict[str, dict[str, list[Tensor]]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass
class Progress:
    """What an evaluation knows so far: enough to go on from, and to report."""

    done: int
    total: int
    metrics: dict[str, dict[str, SampledMetric]]  # of each method that applies
    refused: dict[str, str]  # why the others do not

    def add(self, found: Found) -> None:
        """What a batch has brought."""
        self.refused |= found.refused
        self.metrics = {m: x for m, x in self.metrics.items() if m not in self.refused}
        for method, metrics in self.metrics.items():
            for name, rows in found.rows.get(method, {}).items():
                metrics[name].rows += rows


def evaluate(
    protocol: Protocol,
    methods: Sequence[str],
    options: Mapping[str, Any],
    limit: int | None = None,
    progress: Progress | None = None,
    share: Share = ALONE,
) -> Iterator[Progress]:
    """Score ``methods`` on the first ``limit`` samples, or go on with that; yields as it goes.

    ``options`` are those of :class:`relprop.Options`. With several processes each takes a batch,
    then all know what was found: the batches, and so the scores, are those of one process, and
    another number of processes can go on.
    """
    data, dataset = protocol.data, protocol.dataset()
    total = len(dataset) if limit is None else min(limit, len(dataset))
    if progress is None:
        metrics = {method: protocol.metrics(sync_on_compute=False) for method in methods}
        progress = Progress(0, total, metrics, {})
    if progress.total != total:
        raise InputError(
            f"--resume: the evaluation has {progress.total} samples, the data now have {total}; "
            "accepted: the same data, or a new --output"
        )
    batches = [
        range(start, min(start + data.batch_size, total))
        for start in range(progress.done, total, data.batch_size)
    ]
    mine = batches[share.rank :: share.processes]
    own = torch.Generator()  # a loader without one draws from everybody's
    loader = DataLoader(dataset, batch_sampler=mine, collate_fn=data.collate, generator=own)
    found = (
        score_batch(protocol, batch, indices, list(progress.metrics), options)
        for indices, batch in zip(mine, loader, strict=True)
    )
    yield progress
    for first in range(0, len(batches), share.processes):
        for of_process in share.gather(next(found, Found())):
            progress.add(of_process)
        progress.done = batches[first : first + share.processes][-1].stop
        yield progress


def score_batch(
    protocol: Protocol,
    batch: Mapping[str, Any],
    indices: range,
    methods: Sequence[str],
    options: Mapping[str, Any],
) -> Found:
    """Record the batch of the samples ``indices``, and score every method on it."""
    module, found = protocol.module, Found()
    batch = module.transfer_batch_to_device(batch, module.device, 0)
    batch["index"] = torch.tensor(indices)
    trace = module.record(batch)
    protocol.begin(batch)
    for method in methods:
        metrics = protocol.metrics()
        try:
            protocol.update(metrics, Explainer(module, trace, batch, method, options))
        except relprop.UnsupportedModel as error:
            found.refused[method] = str(error)
        else:
            rows = {name: [x.cpu() for x in metric.rows] for name, metric in metrics.items()}
            found.rows[method] = rows
    return found
