"""One or several numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanSquaredError, MetricCollection, R2Score, SpearmanCorrCoef
from torchmetrics.utilities import dim_zero_cat

from lightning_modules.tasks.base import TASKS, Asked, Task

LOSSES = {"mse": F.mse_loss, "l1": F.l1_loss}


@TASKS.register("regression")
class Regression(Task):
    """The logits are numbers; labels are the true ones, float [B, K].

    Args:
        class_names: what the numbers are called.
        regression_loss: mean squared error, or the mean distance.
    """

    name = "regression"
    activation = None
    monitor = "rmse"
    mode = "min"
    fewest = 1
    question = "What raises each number?"

    def __init__(
        self, class_names: Sequence[str], regression_loss: Literal["mse", "l1"] = "mse"
    ) -> None:
        super().__init__(class_names)
        self.regression_loss = regression_loss

    def loss(self, logits: Tensor, labels: Tensor, training: bool = False) -> Tensor:
        return LOSSES[self.regression_loss](logits, labels.to(logits.dtype))

    def metrics(self) -> MetricCollection:
        """RMSE over all numbers; of R2 and Spearman's coefficient the mean over the numbers."""
        numbers = len(self.class_names)
        return MetricCollection(
            {"rmse": MeanSquaredError(squared=False), "r2": R2(), "spearman": Spearman(numbers)}
        )

    def asked(self, labels: Tensor | None, logits: Tensor) -> list[Asked]:
        """Each of the numbers."""
        every = torch.ones(len(logits), dtype=torch.long, device=logits.device)
        numbers = range(len(self.class_names))
        return [Asked("{}", every * i, None, labels is not None) for i in numbers]

    def number(self, logits: Tensor, target: int, label: Tensor | None) -> str:
        true = "" if label is None else f" (true {label[target]:.4g})"
        return f"{logits[target]:.4g}{true}"


class R2(R2Score):
    """NaN of fewer than two samples."""

    def compute(self) -> Tensor:
        return super().compute() if self.total > 1 else torch.tensor(torch.nan)


class Spearman(SpearmanCorrCoef):
    """The mean over numbers; NaN of fewer than two samples."""

    def compute(self) -> Tensor:
        few = len(dim_zero_cat(self.preds)) < 2
        return torch.tensor(torch.nan) if few else super().compute().mean()
