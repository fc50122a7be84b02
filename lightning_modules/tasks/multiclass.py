"""One of several classes is right."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassStatScores

from lightning_modules.tasks.base import TASKS, Asked, Task, rates
from lightning_modules.tasks.weighting import checked_focal, checked_weights, weighted_mean


@TASKS.register("multiclass")
class Multiclass(Task):
    """One of the classes is right; labels are indices, long [B].

    Args:
        class_names: see :class:`Task`.
        label_smoothing: share of a label that is spread over all classes, in training.
        class_weights: how much the samples of each class count in training; null: the same.
        focal: gamma of the focal loss (Lin et al. 2017): a sample of which the true class has the
            probability p counts (1 - p)^gamma in training.
    """

    name = "multiclass"
    activation = "softmax"
    monitor = "accuracy"
    decides = True
    of_class = "accuracy"

    def __init__(
        self,
        class_names: Sequence[str],
        label_smoothing: float = 0.0,
        class_weights: str | list[int | float] | None = None,
        focal: float = 0.0,
    ) -> None:
        super().__init__(class_names)
        self.label_smoothing, self.focal = label_smoothing, checked_focal(focal)
        self.weights = checked_weights(class_weights, len(self.class_names))

    def loss(self, logits: Tensor, labels: Tensor, training: bool = False) -> Tensor:
        """Cross-entropy. Labels may be shares of all classes, [B, C], as mixup makes them."""
        if not training:
            return F.cross_entropy(logits, labels)
        smoothing = self.label_smoothing if labels.ndim == 1 else 0.0
        if self.weights is None and not self.focal:
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        shares = F.one_hot(labels, logits.shape[1]) if labels.ndim == 1 else labels
        losses = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
        if self.focal:
            losses = losses * (1 - (shares * logits.softmax(dim=-1)).sum(dim=-1)) ** self.focal
        if self.weights is None:
            return losses.mean()
        return weighted_mean(losses, (shares * self.weights.to(logits)).sum(dim=-1))

    def metrics(self) -> MetricCollection:
        classes = len(self.class_names)
        metrics = {"accuracy": MulticlassAccuracy(classes, average="micro")}
        if classes > 5:
            metrics["accuracy_top5"] = MulticlassAccuracy(classes, top_k=5, average="micro")
        return MetricCollection(metrics)

    def decision(self, logits: Tensor) -> Tensor:
        return logits.argmax(dim=-1)

    def counts(self) -> Metric:
        return MulticlassStatScores(len(self.class_names), average=None)

    def by_class(self, counts: Tensor) -> Tensor:
        """The share of each class's samples that are decided right."""
        return rates(counts)[1]

    def asked(self, labels: Tensor | None, logits: Tensor) -> list[Asked]:
        """The true class where it is known, and the predicted one."""
        predicted = Asked("predicted: {}", None)
        return [predicted] if labels is None else [Asked("true: {}", labels, None, True), predicted]

    def is_wrong(self, logits: Tensor, target: int, label: Tensor | None) -> bool:
        return label is not None and target != int(label)
