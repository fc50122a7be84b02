"""Whether an explanation is of the class that it claims to explain."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.metrics.sampled import SampledMetric


class ClassSpecificity(SampledMetric):
    """Of the relevance on two objects, the share on the object of the class explained.

    0.5 is class-blind, 1 perfectly specific. Negative relevance counts as none; a map without any
    relevance on either object counts as 0.5, for it tells nothing.

    >>> import torch
    >>> metric = ClassSpecificity()
    >>> metric.update(torch.tensor([[3.0, 1.0]]), torch.tensor([[1, 0]]), torch.tensor([[0, 1]]))
    >>> metric.compute()["class_specificity"].item()
    0.75
    """

    higher_is_better = True

    def update(self, heatmaps: Tensor, own: Tensor, other: Tensor, maps: int = 1) -> None:
        """``heatmaps`` [B, ...]; ``own``, ``other``, of the same shape: where each object lies.

        ``maps`` that follow each other are of one sample, whose row is their mean.
        """
        positive = heatmaps.clamp(min=0).flatten(1)
        on_own = (positive * own.flatten(1)).sum(dim=1)
        on_both = on_own + (positive * other.flatten(1)).sum(dim=1)
        shares = torch.where(on_both > 0, on_own / on_both, 0.5).double()
        self.rows.append(shares.unflatten(0, (-1, maps)).mean(dim=1))

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        return {"class_specificity": rows.mean()}
