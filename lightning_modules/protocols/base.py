"""What the protocols share: each batch is recorded once, and every method is scored on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

import relprop
from lightning_modules.classifier import Classifier
from lightning_modules.data import DataModule
from lightning_modules.explained_text import ExplainedTexts
from lightning_modules.metrics import SampledMetric

RANDOM = "random"  # relevance by the throw of a die: what a method has to beat
METHODS = (*relprop.METHODS, RANDOM)
Explained = relprop.Explanation | ExplainedTexts


@dataclass(frozen=True)
class Score:
    """One number of a table, with the ends of its 95% interval. ``x`` is its place on a curve."""

    method: str
    name: str
    x: float | None
    value: float
    low: float
    high: float


class Protocol:
    """A way to score explanation methods on a data set.

    A subclass says which samples it needs (:meth:`dataset`), and what a method's explanations of a
    batch are worth (:meth:`update`).
    """

    name: str
    curve: str  # the score that the picture shows
    x_name: str
    x_label: str
    y_label: str

    def dataset(self, data: DataModule) -> Dataset:
        """The samples to score on; an InputError where ``data`` lacks what the protocol needs."""
        raise NotImplementedError

    def metric(self) -> SampledMetric:
        """A fresh metric, for one method."""
        raise NotImplementedError

    def update(
        self,
        metric: SampledMetric,
        module: Classifier,
        batch: Mapping[str, Any],
        explain: Callable[[int | Tensor | None], Explained],
    ) -> None:
        """Score one method on one batch; ``explain`` gives its explanation of a target."""
        raise NotImplementedError

    def scores(self, method: str, metric: SampledMetric) -> list[Score]:
        """The rows of the table for a method."""
        raise NotImplementedError


def evaluate(
    protocol: Protocol,
    module: Classifier,
    data: DataModule,
    methods: Sequence[str],
    options: Mapping[str, Any],
    limit: int | None = None,
    batch_size: int | None = None,
) -> Iterator[tuple[int, int, dict[str, SampledMetric]]]:
    """Score ``methods`` on the first ``limit`` samples; after each batch, what is known so far.

    Yields (samples done, samples in all, the metric of each method). ``options`` are those of
    :class:`relprop.Options`.
    """
    dataset = protocol.dataset(data)
    total = len(dataset) if limit is None else min(limit, len(dataset))
    loader = DataLoader(
        Subset(dataset, range(total)), batch_size or data.batch_size, collate_fn=data.collate
    )
    metrics = {method: protocol.metric().to(module.device) for method in methods}
    done = 0
    for batch in loader:
        batch = module.transfer_batch_to_device(batch, module.device, 0)
        batch["index"] = torch.arange(done, done + len(batch["label"]))
        trace = module.record(batch)
        for method, metric in metrics.items():
            explain = partial(explain_trace, module, trace, batch, method=method, **options)
            protocol.update(metric, module, batch, explain)
        done += len(batch["label"])
        yield done, total, metrics


def explain_trace(
    module: Classifier,
    trace: relprop.Trace,
    batch: Mapping[str, Any],
    target: int | Tensor | None,
    method: str,
    **options,
) -> Explained:
    """As the classifier's own, and ``random``: uniform, a function of ``batch["index"]`` alone."""
    if method != RANDOM:
        return module.explain_trace(trace, batch, target, method, **options)
    explained = module.explain_trace(trace, batch, target, "raw_attention")
    of_row = batch["index"][batch.get("text_of_row", slice(None))]
    shape = explained.relevance.shape[1:]
    noise = [torch.rand(shape, generator=torch.Generator().manual_seed(i)) for i in of_row.tolist()]
    noise = torch.stack(noise).to(explained.relevance)
    if isinstance(explained, ExplainedTexts):
        return ExplainedTexts.of(batch, noise, explained.target, explained.logits)
    return replace(explained, relevance=noise)
