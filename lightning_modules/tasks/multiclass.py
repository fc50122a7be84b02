"""One of several classes is right."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassStatScores

from lightning_modules.tasks.base import ACTIVATIONS, TASKS, Asked, Task


@TASKS.register("multiclass")
class Multiclass(Task):
    """One of the classes is right; labels are indices, long [B].

    Args:
        class_names: see :class:`Task`.
        label_smoothing: share of a label that is spread over all classes, in training.
    """

    name = "multiclass"
    activation = "softmax"
    monitor = "accuracy"
    of_class = "accuracy"

    def __init__(self, class_names: Sequence[str], label_smoothing: float = 0.0) -> None:
        super().__init__(class_names)
        self.label_smoothing = label_smoothing

    def loss(self, logits: Tensor, labels: Tensor, training: bool = False) -> Tensor:
        """Cross-entropy. Labels may be shares of all classes, [B, C], as mixup makes them."""
        smoothing = self.label_smoothing if training and labels.ndim == 1 else 0.0
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)

    def metrics(self) -> MetricCollection:
        classes = len(self.class_names)
        metrics = {"accuracy": MulticlassAccuracy(classes, average="micro")}
        if classes > 5:
            metrics["accuracy_top5"] = MulticlassAccuracy(classes, top_k=5, average="micro")
        return MetricCollection(metrics)

    def counts(self) -> Metric:
        return MulticlassStatScores(len(self.class_names), average=None)

    def by_class(self, counts: Tensor) -> Tensor:
        """The share of each class's samples that are decided right."""
        right, *_, samples = counts.T
        return right / samples

    def asked(self, labels: Tensor | None, logits: Tensor) -> list[Asked]:
        """The true class where it is known, and the predicted one."""
        predicted = Asked("predicted: {}", None)
        return [predicted] if labels is None else [Asked("true: {}", labels, None, True), predicted]

    def number(self, logits: Tensor, target: int, label: Tensor | None) -> str:
        return f"p = {ACTIVATIONS[self.activation](logits)[target]:.2f}"

    def is_wrong(self, logits: Tensor, target: int, label: Tensor | None) -> bool:
        return label is not None and target != int(label)
