"""Whether relevance lies within a region: its share there, and its highest point."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.metrics.sampled import SampledMetric


class EnergyInside(SampledMetric):
    """The share of the positive relevance that lies within a region, mean over maps.

    0 to 1, higher is better. Of a region that is the object it is the energy-based pointing game
    (Wang et al. 2020), of the cell of a class in a mosaic the grid pointing game (Böhle et al.
    2021). A map without positive relevance tells nothing: it counts as one that is everywhere the
    same, which has the region's share of the area.

    >>> import torch
    >>> metric = EnergyInside()
    >>> metric.update(torch.tensor([[[3.0, 1.0], [-5.0, 0.0]]]), torch.tensor([[[1, 0], [1, 0]]]))
    >>> metric.compute()["energy"].item()
    0.75
    """

    higher_is_better = True

    def update(self, heatmaps: Tensor, regions: Tensor, maps: int = 1) -> None:
        """``heatmaps`` [B, H, W]; ``regions`` [B, H, W], non-zero within.

        ``maps`` that follow each other are of one sample, whose row is their mean.
        """
        positive, within = heatmaps.double().clamp(min=0).flatten(1), regions.flatten(1).bool()
        total = positive.sum(dim=1)
        share = (positive * within).sum(dim=1) / total
        share = torch.where(total > 0, share, within.double().mean(dim=1))
        self.rows.append(share.unflatten(0, (-1, maps)).mean(dim=1))

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        return {"energy": rows.mean()}


class PointingGame(SampledMetric):
    """How often the highest point of a map lies on the object (Zhang et al. 2016).

    0 to 1, higher is better. Of several highest points each counts for its part.

    >>> import torch
    >>> metric = PointingGame()
    >>> metric.update(torch.tensor([[[3.0, 1.0], [3.0, 0.0]]]), torch.tensor([[[1, 0], [0, 0]]]))
    >>> metric.compute()["hits"].item()
    0.5
    """

    higher_is_better = True

    def update(self, heatmaps: Tensor, masks: Tensor) -> None:
        """``heatmaps`` [B, H, W]; ``masks`` [B, H, W], non-zero on the object."""
        maps, on_object = heatmaps.flatten(1), masks.flatten(1).bool()
        highest = maps == maps.amax(dim=1, keepdim=True)
        self.rows.append((highest & on_object).sum(dim=1).double() / highest.sum(dim=1))

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        return {"hits": rows.mean()}
