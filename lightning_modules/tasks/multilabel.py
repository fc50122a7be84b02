"""Each of several labels may be there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MultilabelAccuracy,
    MultilabelAveragePrecision,
    MultilabelF1Score,
    MultilabelStatScores,
)
from torchmetrics.utilities import dim_zero_cat

from lightning_modules.tasks.base import TASKS, Asked, Task, rates
from lightning_modules.tasks.weighting import checked_focal, checked_weights


@TASKS.register("multilabel")
class Multilabel(Task):
    """Each of the labels may be there; a batch has them as 0 or 1, float [B, C].

    Args:
        class_names: see :class:`Task`.
        label_smoothing: share of a label that is spread over there and not there, in training.
        class_weights: how much the samples that have a label count for it in training, beside 1 of
            those that do not; null: 1.
        focal: gamma of the focal loss (Lin et al. 2017): a decision whose right answer has the
            probability p counts (1 - p)^gamma in training.
        threshold: the probability above which a label counts as found, 0 to 1, or one a label.
    """

    name = "multilabel"
    activation = "sigmoid"
    monitor = "average_precision"
    fewest = 1
    decides = several = True
    of_class = "f1"
    question = "Why each label?"

    def __init__(
        self,
        class_names: Sequence[str],
        label_smoothing: float = 0.0,
        class_weights: str | list[int | float] | None = None,
        focal: float = 0.0,
        threshold: float | list[int | float] = 0.5,
    ) -> None:
        super().__init__(class_names)
        self.label_smoothing, self.focal = label_smoothing, checked_focal(focal)
        self.weights = checked_weights(class_weights, len(self.class_names))
        classes = len(self.class_names)
        several = [threshold] * classes if isinstance(threshold, (int, float)) else list(threshold)
        if len(several) != classes or not all(0 < x < 1 for x in several):
            raise ValueError(
                f"threshold is {threshold!r}; accepted: a number above 0 and below 1, or "
                f"{classes} of them, one a label"
            )
        self.thresholds = torch.tensor(several, dtype=torch.float64)

    def loss(self, logits: Tensor, labels: Tensor, training: bool = False) -> Tensor:
        """Binary cross-entropy, the mean over samples and labels."""
        labels = labels.to(logits.dtype)
        if not training:
            return F.binary_cross_entropy_with_logits(logits, labels)
        smooth = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
        weights = None if self.weights is None else self.weights.to(logits)
        losses = F.binary_cross_entropy_with_logits(
            logits, smooth, pos_weight=weights, reduction="none"
        )
        if self.focal:
            right = torch.where(labels > 0.5, logits, -logits).sigmoid()
            losses = losses * (1 - right) ** self.focal
        return losses.mean()

    def metrics(self) -> MetricCollection:
        """Of every decision about a label, and the means of the labels' F1 and precision.

        A label that no sample of the split has counts as 0 in F1, and not in precision.
        """
        classes = len(self.class_names)
        return MetricCollection(
            {
                "accuracy": MultilabelAccuracy(classes, average="micro"),
                "f1": MultilabelF1Score(classes, average="macro"),
                "average_precision": AveragePrecision(classes, average="none"),
            }
        )

    def decided(self, logits: Tensor) -> Tensor:
        """Probabilities moved along their logits, so that 0.5 is each label's threshold."""
        return self.margin(logits).sigmoid()

    def truth(self, labels: Tensor) -> Tensor:
        return (labels > 0.5).long()

    def margin(self, logits: Tensor) -> Tensor:
        """Logits [..., C] above those of the thresholds: positive where a label is found."""
        return logits - self.thresholds.logit().to(logits)

    def found(self, logits: Tensor) -> Tensor:
        return self.margin(logits) > 0

    def decision(self, logits: Tensor) -> Tensor:
        return self.found(logits)

    def counts(self) -> Metric:
        return MultilabelStatScores(len(self.class_names), average=None)

    def by_class(self, counts: Tensor) -> Tensor:
        """F1 of each label."""
        return rates(counts)[2]

    def asked(self, labels: Tensor | None, logits: Tensor) -> list[Asked]:
        """Each label that is there, and the most probable that is not."""
        if labels is None:
            return [Asked("most probable: {}", None)]
        questions = [Asked("there: {}", target, of, True) for target, of in self.present(labels)]
        there = labels > 0.5
        highest = logits.masked_fill(there.to(logits.device), -torch.inf).argmax(dim=-1)
        return [*questions, Asked("not there: {}", highest, ~there.all(dim=-1))]

    def present(self, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of a sample that has fewer it is one that is not there."""
        there = labels > 0.5
        order = there.int().argsort(dim=-1, descending=True, stable=True)
        most = max(1, int(there.sum(dim=-1).max()))
        return [
            (target, there.gather(-1, target[:, None])[:, 0]) for target in order.T[:most].unbind()
        ]

    def is_wrong(self, logits: Tensor, target: int, label: Tensor | None) -> bool:
        return label is not None and bool(self.found(logits)[target] != (label[target] > 0.5))


class AveragePrecision(MultilabelAveragePrecision):
    """The mean over the labels that the split has; NaN where it has none."""

    def compute(self) -> Tensor:
        return super().compute()[dim_zero_cat(self.target).bool().any(dim=0)].mean()
