"""Whether a map depends on what the model has learnt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional.regression import spearman_corrcoef

from lightning_modules.metrics.sampled import SampledMetric


class RankCorrelation(SampledMetric):
    """Magnitude of Spearman's correlation of a map with that of a randomised model, mean over them.

    The sanity check of Adebayo et al. 2018, by magnitude: a map whose sign alone has changed shows
    the same places. Near 0 where the map is of the weights, near 1 where it is blind to them.

    >>> import torch
    >>> metric = RankCorrelation()
    >>> metric.update(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[20.0, 40.0, 90.0]]))
    >>> round(float(metric.compute()["rank_correlation"]), 3)
    1.0
    """

    higher_is_better = False

    def update(self, maps: Tensor, of_random: Tensor) -> None:
        """Two maps a sample, [B, ...] each; NaN on what is no part of either."""
        self.rows.append(rank_correlations(maps, of_random))

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        return {"rank_correlation": rows.mean()}


class CascadeCorrelation(SampledMetric):
    """:class:`RankCorrelation` with each of several randomised models, and the mean over them.

    ``places``: how far each is randomised. Cascading randomisation is of Adebayo et al. 2018, too.

    >>> import torch
    >>> metric = CascadeCorrelation([0, 1])
    >>> maps, others = torch.tensor([[1.0, 2.0, 3.0]]), [[[2.0, 4.0, 9.0]], [[3.0, 2.0, 1.0]]]
    >>> metric.update(maps, torch.tensor(others))
    >>> {name: value.round(decimals=3).tolist() for name, value in metric.compute().items()}
    {'rank_correlation': [1.0, 1.0], 'mean': 1.0}
    """

    higher_is_better = False

    def __init__(self, places: Sequence[float], **options) -> None:
        super().__init__(**options)
        self.places = list(places)

    def update(self, maps: Tensor, of_random: Tensor) -> None:
        """``maps`` [B, ...] of the model, ``of_random`` [places, B, ...]; NaN as above."""
        self.rows.append(torch.stack([rank_correlations(maps, x) for x in of_random], dim=1))

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        return {"rank_correlation": rows.mean(dim=0), "mean": rows.mean()}


def rank_correlations(maps: Tensor, others: Tensor) -> Tensor:
    """Magnitude of Spearman's correlation of each of ``maps`` [B, ...] with one of ``others``, [B].

    A map that is everywhere the same has no order: it correlates with itself alone.
    """
    values = []
    for a, b in zip(maps.flatten(1), others.flatten(1), strict=True):
        there = ~(a.isnan() | b.isnan())
        ordered = there.sum() > 1 and a[there].std() > 0 and b[there].std() > 0
        same = float(torch.equal(a[there], b[there]))  # where there is no order to compare
        value = spearman_corrcoef(a[there].double(), b[there].double()) if ordered else same
        values.append(abs(float(value)))
    return torch.tensor(values, dtype=torch.float64)
