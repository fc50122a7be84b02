"""Whether a map depends on what the model has learnt."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.regression import spearman_corrcoef

from lightning_modules.metrics.sampled import SampledMetric


class RankCorrelation(SampledMetric):
    """Spearman's correlation of a map with that of a randomised model, mean over samples.

    The sanity check of Adebayo et al. 2018: near 0 where the map is of the weights, near 1 where it
    is blind to them. A map without any order (all equal) correlates with nothing: 0.

    >>> import torch
    >>> metric = RankCorrelation()
    >>> metric.update(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[20.0, 40.0, 90.0]]))
    >>> round(float(metric.compute()["rank_correlation"]), 3)
    1.0
    """

    def update(self, maps: Tensor, of_random: Tensor) -> None:
        """Two maps a sample, [B, ...] each; NaN on what is no part of either."""
        for a, b in zip(maps.flatten(1), of_random.flatten(1), strict=True):
            there = ~(a.isnan() | b.isnan())
            ordered = there.sum() > 1 and a[there].std() > 0 and b[there].std() > 0
            value = spearman_corrcoef(a[there].double(), b[there].double()) if ordered else 0.0
            self.rows.append(torch.tensor([float(value)], dtype=torch.float64))

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        return {"rank_correlation": rows.mean()}
