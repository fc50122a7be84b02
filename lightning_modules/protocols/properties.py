"""Properties of maps that need no labels: do they add up, are they simple, are they stable?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_modules.metrics import Completeness, Complexity, SampledMetric, Sensitivity
from lightning_modules.modalities import Explained
from lightning_modules.modalities.explained import joined_maps
from lightning_modules.protocols.base import PROTOCOLS, Column, Protocol
from lightning_modules.protocols.explainer import Explainer, scored_methods

DRAWS = 4  # of noise
NOISE = 0.05  # its deviation, of that of the sample


@PROTOCOLS.register("properties")
class Properties(Protocol):
    """What the maps of the predicted classes are like, on the test samples.

    Completeness is of methods whose relevance is to add up to the logit (``Method.conserves``).
    Sensitivity is of inputs that are numbers, as pictures: Gaussian noise, drawn for each sample,
    with 1/20 of its deviation.
    """

    tasks = ("multiclass", "multilabel", "regression")
    title = "the sum of the map against the logit, its entropy, and its change under noise"
    columns = [
        Column("completeness error", "completeness/error", better="lower"),
        Column("complexity", "complexity/entropy", better="lower"),
        Column("sensitivity", "sensitivity/change", better="lower"),
    ]

    def samples(self) -> Dataset:
        return self.data.test_dataset

    def metrics(self, **options) -> dict[str, SampledMetric]:
        return {
            "completeness": Completeness(**options),
            "complexity": Complexity(**options),
            "sensitivity": Sensitivity(**options),
        }

    def begin(self, batch: Mapping[str, Any]) -> None:
        """Record the batch under each draw of noise."""
        self.noisy = []
        inputs = batch.get(self.source)
        if isinstance(inputs, Tensor) and inputs.is_floating_point():
            for draw in range(DRAWS):
                noisy = {**batch, self.source: with_noise(inputs, batch["index"].tolist(), draw)}
                self.noisy.append((noisy, self.module.record(noisy)))

    def update(self, metrics: Mapping[str, SampledMetric], explain: Explainer) -> None:
        found = explain.sources(None)
        first = found[explain.source]
        if scored_methods()[explain.method].conserves:
            outputs = first.logits.gather(1, first.target[:, None])[:, 0]
            metrics["completeness"].update(sum(map(sums_of, found.values())), outputs)
        maps = joined_maps(found)
        metrics["complexity"].update(maps)
        if self.noisy:
            others = [
                replace(explain, batch=batch, trace=trace).sources(first.target)
                for batch, trace in self.noisy
            ]
            metrics["sensitivity"].update(maps, torch.stack([joined_maps(x) for x in others]))


def sums_of(explained: Explained) -> Tensor:
    """The sum of the relevance of each sample, [B]; of a text in several rows their mean."""
    rows, samples = explained.sample_of_row, len(explained.target)
    of_rows = explained.relevance.flatten(1).sum(dim=1)
    counts = torch.bincount(rows, minlength=samples)
    return of_rows.new_zeros(samples).index_add(0, rows, of_rows) / counts


def with_noise(inputs: Tensor, indices: list[int], draw: int) -> Tensor:
    """Inputs [B, ...] under the noise of one draw, a function of the ``indices`` of the samples."""
    noise = [
        torch.randn(inputs.shape[1:], generator=torch.Generator().manual_seed(DRAWS * i + draw))
        for i in indices
    ]
    spread = inputs.flatten(1).std(dim=1).view(-1, *[1] * (inputs.ndim - 1))
    return inputs + NOISE * spread * torch.stack(noise).to(inputs)
