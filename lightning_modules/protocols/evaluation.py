"""The evaluation: each batch is recorded once, and every method is scored on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import relprop
from lightning_modules.metrics import SampledMetric
from lightning_modules.protocols.base import Protocol
from lightning_modules.protocols.explainer import Explainer
from lightning_modules.protocols.shard import ALONE, Shard
from lightning_modules.utils.errors import InputError


@dataclass(frozen=True)
class BatchScores:
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

    def add(self, scores: BatchScores) -> None:
        """What a batch has brought."""
        self.refused |= scores.refused
        self.metrics = {m: x for m, x in self.metrics.items() if m not in self.refused}
        for method, metrics in self.metrics.items():
            for name, rows in scores.rows.get(method, {}).items():
                metrics[name].rows += rows


def evaluate(
    protocol: Protocol,
    methods: Sequence[str],
    options: Mapping[str, Any],
    limit: int | None = None,
    progress: Progress | None = None,
    shard: Shard = ALONE,
) -> Iterator[Progress]:
    """Score ``methods`` on the first ``limit`` samples, or go on with that; yields as it goes.

    ``options`` are those of :class:`relprop.Options`. With several processes each takes a batch,
    then all know what was found: the batches, and so the scores, are those of one process, and
    another number of processes can go on.
    """
    data, dataset = protocol.data, protocol.samples()
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
    own_batches = batches[shard.rank :: shard.processes]
    generator = torch.Generator()  # a loader without one draws from everybody's
    loader = DataLoader(
        dataset, batch_sampler=own_batches, collate_fn=data.collate, generator=generator
    )
    scores = (
        score_batch(protocol, batch, indices, list(progress.metrics), options)
        for indices, batch in zip(own_batches, loader, strict=True)
    )
    yield progress
    protocol.prepare()
    for first in range(0, len(batches), shard.processes):
        for of_process in shard.gather(next(scores, BatchScores())):
            progress.add(of_process)
        progress.done = batches[first : first + shard.processes][-1].stop
        yield progress


def score_batch(
    protocol: Protocol,
    batch: Mapping[str, Any],
    indices: range,
    methods: Sequence[str],
    options: Mapping[str, Any],
) -> BatchScores:
    """Record the batch of the samples ``indices``, and score every method on it, or the model."""
    module, scores = protocol.module, BatchScores()
    batch = module.transfer_batch_to_device(batch, module.device, 0)
    batch["index"] = torch.tensor(indices)
    protocol.begin(batch)
    metrics = {method: protocol.metrics() for method in methods}
    for recorded, trace in protocol.recordings(batch):
        for method in [method for method in methods if method not in scores.refused]:
            explainer = Explainer(recorded, trace, batch, method, options, protocol.source)
            try:
                protocol.update(metrics[method], explainer)
            except relprop.UnsupportedModel as error:
                scores.refused[method] = str(error)
    for method, of_method in metrics.items():
        if method not in scores.refused:
            rows = {name: [x.cpu() for x in metric.rows] for name, metric in of_method.items()}
            scores.rows[method] = rows
    return scores
