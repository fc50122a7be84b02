"""How often few-shot classifiers are right, in the mean of episodes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class EpisodeAccuracy(Metric):
    """The mean over episodes of the share of an episode's queries that are decided right.

    >>> import torch
    >>> metric = EpisodeAccuracy(queries=2)
    >>> metric.update(torch.eye(2)[[0, 1, 0, 0]], torch.tensor([0, 1, 0, 1]))
    >>> metric.compute()
    tensor(0.7500)

    Args:
        queries: of an episode; those of one come after those of another.
    """

    full_state_update = False
    accuracies: list[Tensor]  # [E] of each update

    def __init__(self, queries: int, **options) -> None:
        super().__init__(**options)
        self.queries = queries
        self.add_state("accuracies", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add the logits [E * Q, C] of episodes, and the labels of their queries, [E * Q]."""
        right = (logits.argmax(dim=-1) == labels).float()
        self.accuracies.append(right.unflatten(0, (-1, self.queries)).mean(dim=-1))

    def compute(self) -> Tensor:
        return dim_zero_cat(self.accuracies).mean()


class EpisodeInterval(EpisodeAccuracy):
    """Half the 95% interval of :class:`EpisodeAccuracy`: 1.96 s / sqrt(n) of n episodes.

    s is the standard deviation of their accuracies; of one episode there is none, NaN.

    >>> import torch
    >>> metric = EpisodeInterval(queries=2)
    >>> metric.update(torch.eye(2)[[0, 1, 0, 0]], torch.tensor([0, 1, 0, 1]))
    >>> metric.compute()  # 1.96 * 0.3536 / sqrt(2)
    tensor(0.4900)
    """

    def compute(self) -> Tensor:
        found = dim_zero_cat(self.accuracies)
        return 1.96 * found.std() / torch.tensor(float(len(found))).sqrt()
