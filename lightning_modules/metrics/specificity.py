"""Whether an explanation is of the class that it claims to explain."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class ClassSpecificity(Metric):
    """Of the relevance on two objects, the share on the object of the class explained.

    0.5 is class-blind, 1 perfectly specific. Negative relevance counts as none; a map without any
    relevance on either object counts as 0.5, for it tells nothing.

    >>> import torch
    >>> metric = ClassSpecificity()
    >>> metric.update(torch.tensor([[3.0, 1.0]]), torch.tensor([[1, 0]]), torch.tensor([[0, 1]]))
    >>> metric.compute()
    tensor(0.7500)
    """

    full_state_update = False

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("maps", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, heatmaps: Tensor, own: Tensor, other: Tensor) -> None:
        """``heatmaps`` [B, ...]; ``own``, ``other``, of the same shape: where each object lies."""
        positive = heatmaps.clamp(min=0).flatten(1)
        on_own = (positive * own.flatten(1)).sum(dim=1)
        on_both = on_own + (positive * other.flatten(1)).sum(dim=1)
        self.total += torch.where(on_both > 0, on_own / on_both, 0.5).sum()
        self.maps += len(heatmaps)

    def compute(self) -> Tensor:
        return self.total / self.maps
