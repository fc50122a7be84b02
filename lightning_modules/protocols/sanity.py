"""Sanity: does the map change when what the model has learnt is thrown away?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

import relprop
from lightning_modules.data import DataModule
from lightning_modules.metrics import CascadeCorrelation, RankCorrelation, SampledMetric
from lightning_modules.modalities.explained import joined_maps
from lightning_modules.models.blocks import levels_of
from lightning_modules.models.classifier import Classifier
from lightning_modules.protocols.base import PROTOCOLS, Column, Protocol
from lightning_modules.protocols.explainer import Explainer


@PROTOCOLS.register("sanity")
class Sanity(Protocol):
    """Rank correlation, by magnitude, of the predicted class's map with a randomised model's.

    Weights are drawn anew from a normal distribution with the mean and the deviation of each
    (Adebayo et al. 2018): those of the head, then those of one block more from the head down, then
    all. A method that is blind to them scores near 1.
    """

    tasks = ("multiclass", "multilabel", "regression")
    title = "rank correlation (magnitude) of the map with that of the model with random weights"
    columns = [
        Column("random head", "head/rank_correlation", better="lower"),
        Column("all random", "all/rank_correlation", better="lower"),
        Column("mean of the cascade", "cascade/mean", better="lower"),
    ]
    curves = {"cascade/rank_correlation": "rank correlation with the map of the model"}
    x_label = "random blocks below a random head; the last: all weights"
    limit = 50

    def __init__(self, module: Classifier, data: DataModule) -> None:
        super().__init__(module, data)
        self.levels = levels_of(module.backbone)
        self.blocks = max(self.levels.values()) - 1 if any(self.levels.values()) else 0

    def samples(self) -> Dataset:
        return self.data.test_dataset

    def prepare(self) -> None:
        """Draw the weights of the two randomised models, and make one for what lies between."""
        of_head = self.module.head_parameters()
        self.random = {
            "head": randomised(self.module, of_head.__contains__),
            "all": randomised(self.module, lambda name: True),
        }
        with torch.inference_mode(False):
            self.between = copy.deepcopy(self.module)

    def metrics(self, **options) -> dict[str, SampledMetric]:
        return {
            "head": RankCorrelation(**options),
            "all": RankCorrelation(**options),
            "cascade": CascadeCorrelation(range(self.blocks + 2), **options),
        }

    def begin(self, batch: Mapping[str, Any]) -> None:
        self.maps: dict[str, list[Tensor]] = {}  # of the model, then of each randomised one
        self.targets: dict[str, Tensor] = {}

    def recordings(self, batch: Mapping[str, Any]) -> Iterator[tuple[Classifier, relprop.Trace]]:
        """The model, then the cascade: random head, one random block more each, all random."""
        ends = (self.module, self.random["head"]), (self.random["all"],)
        for module in chain(ends[0], self.cascade(), ends[1]):
            yield module, module.record(batch)

    def cascade(self) -> Iterator[Classifier]:
        """The model with a random head and one, two, ... random blocks below it, made in place."""
        drawn = dict(self.random["all"].backbone.named_parameters())
        own = dict(self.module.backbone.named_parameters())
        of_head = self.module.head_parameters()
        for count in range(1, self.blocks + 1):
            with torch.inference_mode(False), torch.no_grad():
                for name, parameter in self.between.backbone.named_parameters():
                    is_random = name in of_head or self.levels[name] > self.blocks - count
                    parameter.copy_((drawn if is_random else own)[name])
            yield self.between

    def update(self, metrics: Mapping[str, SampledMetric], explain: Explainer) -> None:
        """Keep the map of one recording, and score all with the last."""
        found = explain.sources(self.targets.get(explain.method))
        self.targets[explain.method] = found[explain.source].target
        maps = self.maps.setdefault(explain.method, [])
        maps.append(joined_maps(found))
        if len(maps) == self.blocks + 3:
            first, *others = maps
            metrics["head"].update(first, others[0])
            metrics["all"].update(first, others[-1])
            metrics["cascade"].update(first, torch.stack(others))


def randomised(module: Classifier, chosen: Callable[[str], bool]) -> Classifier:
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
