"""Sanity: does the map change when what the model has learnt is thrown away?"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from lightning_modules.metrics import RankCorrelation, SampledMetric
from lightning_modules.modalities.texts.explained import ExplainedTexts
from lightning_modules.models.vit import heads_of
from lightning_modules.protocols.base import Column, Explained, Explainer, Protocol


class Sanity(Protocol):
    """Rank correlation of the predicted class's map with that of a randomised model.

    First the head alone, then all weights, are drawn anew from a normal distribution with the mean
    and the deviation of each (Adebayo et al. 2018). A method that is blind to them scores near 1.
    """

    name = "sanity"
    title = "rank correlation of the map with that of the model with random weights"
    columns = [
        Column("random head", "head/rank_correlation"),
        Column("all random", "all/rank_correlation"),
    ]

    def dataset(self) -> Dataset:
        of_head = parameters_of_head(self.module.backbone)
        self.random = {
            "head": randomised(self.module, of_head.__contains__),
            "all": randomised(self.module, lambda name: True),
        }
        return self.data.test_dataset

    def metrics(self, **options) -> dict[str, SampledMetric]:
        return {"head": RankCorrelation(**options), "all": RankCorrelation(**options)}

    def begin(self, batch: Mapping[str, Any]) -> None:
        self.traces = {name: module.record(batch) for name, module in self.random.items()}

    def update(self, metrics: Mapping[str, SampledMetric], explain: Explainer) -> None:
        explained = explain(None)
        for name, module in self.random.items():
            other = replace(explain, module=module, trace=self.traces[name])(explained.target)
            metrics[name].update(map_of(explained), map_of(other))


def parameters_of_head(backbone: nn.Module) -> set[str]:
    """Names of the parameters above what timm calls the features, or Hugging Face the base."""
    if isinstance(backbone, PreTrainedModel):
        base = {id(parameter) for parameter in backbone.base_model.parameters()}
        return {name for name, p in backbone.named_parameters() if id(p) not in base}
    return {
        f"{head}.{name}"
        for head, module in heads_of(backbone).items()
        for name, _ in module.named_parameters()
    }


def map_of(explained: Explained) -> Tensor:
    """The map of each sample, NaN on words that the model has not seen."""
    if isinstance(explained, ExplainedTexts):
        return explained.word_scores.masked_fill(~explained.seen, torch.nan)
    return explained.relevance


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
