"""What a classifier that has learnt new classes still knows of the old ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class ClassIncremental(Metric):
    """Accuracy on old and on new classes, and how much of the old is forgotten.

    - ``accuracy_old``, ``accuracy_new``: share of the samples of these classes that are decided
      right, among all classes.
    - ``forgetting``: accuracy of the earlier classifier, which decides among the old classes alone,
      on the samples of the old classes, less ``accuracy_old``.

    What has no sample is left out.

    >>> import torch
    >>> metric = ClassIncremental(old=2)
    >>> predicted, before, labels = torch.tensor([[0, 2, 2, 0], [0, 1, 1, 1], [0, 1, 2, 3]])
    >>> metric.update(predicted, before, labels)
    >>> {name: value.item() for name, value in metric.compute().items()}
    {'accuracy_old': 0.5, 'accuracy_new': 0.5, 'forgetting': 0.5}

    Args:
        old: how many of the classes are old, the first.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, old: int, **options) -> None:
        super().__init__(**options)
        self.old = old
        # Samples, and those decided right: old classes now, old classes before, new classes.
        self.add_state("counts", torch.zeros(3, 2, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, before: Tensor, labels: Tensor) -> None:
        """Add decisions, those of the earlier classifier, and true classes, long [B] each."""
        is_old = labels < self.old
        found = (
            (is_old, predicted == labels),
            (is_old, before == labels),
            (~is_old, predicted == labels),
        )
        for row, (of, right) in enumerate(found):
            self.counts[row] += torch.stack([of.sum(), (of & right).sum()])

    def compute(self) -> dict[str, Tensor]:
        samples, right = self.counts.T
        old, before, new = right / samples
        found = {"accuracy_old": old, "accuracy_new": new, "forgetting": before - old}
        return {name: value for name, value in found.items() if not value.isnan()}
