"""Metrics that know how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

DRAWS = 1000  # of samples, for an interval


class SampledMetric(Metric):
    """A score of a data set, computed from one row of numbers a sample.

    The rows are kept, and gathered from all processes, so that the score of other draws of as many
    samples can be computed, too: :meth:`intervals`.
    """

    full_state_update = False
    rows: list[Tensor]
    places: Sequence[float] = ()  # where on a curve the numbers of a score with several stand

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.add_state("rows", [], dist_reduce_fx="cat")

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        """The scores by name, each [...], of rows [samples, ...]."""
        raise NotImplementedError

    def compute(self) -> dict[str, Tensor]:
        return self.score(self.gathered())

    def in_order(self) -> Tensor:
        """The rows of this process, in the order in which they were added."""
        return dim_zero_cat(self.rows).cpu()

    def gathered(self) -> Tensor:
        """The rows, in an order that does not tell how many processes they are from."""
        rows = self.in_order()
        return rows[np.lexsort(rows.reshape(len(rows), math.prod(rows.shape[1:])).numpy().T)]

    def intervals(
        self, level: float = 0.95, draws: int | None = None, seed: int = 0
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Ends of the bootstrap percentile interval of each score (Efron 1979).

        ``level``: the share of draws whose score lies within; the rest as of :meth:`drawn`. Of the
        rows of all processes, as the score is, unless ``sync_on_compute`` is off.
        """
        with self.sync_context(should_sync=self.sync_on_compute):
            rows = self.gathered()
        drawn = self.drawn(rows, draws, seed)
        return {name: ends_of(scores, level) for name, scores in drawn.items()}

    def drawn(self, rows: Tensor, draws: int | None = None, seed: int = 0) -> dict[str, Tensor]:
        """The scores of ``draws`` of as many samples, with replacement: each [draws, ...].

        Draws depend on the seed and on the number of rows alone. Two metrics whose rows are of the
        same samples in the same order have the same samples in each draw: their scores are pairs.
        """
        generator = torch.Generator().manual_seed(seed)
        drawn = [
            self.score(rows[torch.randint(max(1, len(rows)), (len(rows),), generator=generator)])
            for _ in range(DRAWS if draws is None else draws)
        ]
        return {name: torch.stack([d[name].double() for d in drawn]) for name in drawn[0]}


def ends_of(drawn: Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Between which the share ``level`` of the draws [draws, ...] lies: [...] each."""
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    return tuple(drawn.quantile(ends, dim=0))
