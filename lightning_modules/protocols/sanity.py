"""Sanity: does the map change when what the model has learnt is thrown away?"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from lightning_modules.metrics import RankCorrelation, SampledMetric
from lightning_modules.modalities.explained import joined_maps
from lightning_modules.protocols.base import PROTOCOLS, Column, Protocol
from lightning_modules.protocols.explainer import Explainer


@PROTOCOLS.register("sanity")
class Sanity(Protocol):
    """Rank correlation of the predicted class's map with that of a randomised model.

    First the head alone, then all weights, are drawn anew from a normal distribution with the mean
    and the deviation of each (Adebayo et al. 2018). A method that is blind to them scores near 1.
    """

    tasks = ("multiclass", "multilabel", "regression")
    title = "rank correlation of the map with that of the model with random weights"
    columns = [
        Column("random head", "head/rank_correlation", better="near 0"),
        Column("all random", "all/rank_correlation", better="near 0"),
    ]

    def samples(self) -> Dataset:
        return self.data.test_dataset

    def prepare(self) -> None:
        """Draw the weights of the two randomised models."""
        of_head = self.module.head_parameters()
        self.random = {
            "head": randomised(self.module, of_head.__contains__),
            "all": randomised(self.module, lambda name: True),
        }

    def metrics(self, **options) -> dict[str, SampledMetric]:
        return {"head": RankCorrelation(**options), "all": RankCorrelation(**options)}

    def begin(self, batch: Mapping[str, Any]) -> None:
        self.traces = {name: module.record(batch) for name, module in self.random.items()}

    def update(self, metrics: Mapping[str, SampledMetric], explain: Explainer) -> None:
        found = explain.sources(None)
        target = found[explain.source].target
        for name, module in self.random.items():
            other = replace(explain, module=module, trace=self.traces[name]).sources(target)
            metrics[name].update(joined_maps(found), joined_maps(other))


def randomised(module: nn.Module, chosen) -> nn.Module:
    """A copy whose parameters with a ``chosen`` name, of the backbone, are drawn anew."""
    generator = torch.Generator().manual_seed(0)
    # In a validation loop's inference mode the copy could not be recorded.
    with torch.inference_mode(False), torch.no_grad():
        other = copy.deepcopy(module)
        for name, parameter in other.backbone.named_parameters():
            if chosen(name):
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                spread = parameter.std() if parameter.numel() > 1 else 0
                parameter.copy_(parameter.mean() + spread * noise)
    return other
