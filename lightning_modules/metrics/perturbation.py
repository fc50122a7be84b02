"""What happens to a decision when pixels go, in the order of their relevance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.metrics.sampled import SampledMetric

STEPS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def perturb(
    images: Tensor, heatmaps: Tensor, share: float, most_relevant: bool, black: Tensor
) -> Tensor:
    """The images [B, C, H, W] without a ``share`` of their pixels, in order of relevance.

    ``heatmaps`` [B, H, W]; ``most_relevant`` first (positive perturbation) or least first
    (negative); ``black`` [C]: what takes their place, black as the model sees it.

    >>> images, heatmaps = torch.ones(1, 1, 2, 2), torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])
    >>> perturb(images, heatmaps, 0.5, most_relevant=True, black=torch.zeros(1)).tolist()
    [[[[0.0, 0.0], [1.0, 1.0]]]]
    """
    order = heatmaps.flatten(1) if most_relevant else -heatmaps.flatten(1)
    gone = order.topk(int(share * order.shape[1]), dim=1).indices
    mask = torch.zeros_like(order, dtype=torch.bool).scatter_(1, gone, True)
    return torch.where(mask.view_as(heatmaps)[:, None], black[:, None, None], images)


class PerturbationAccuracy(SampledMetric):
    """Accuracy while pixels are removed (the paper's table 1), and the area under it.

    Positive perturbation, the most relevant pixels first: lower is better. Negative: higher is.
    ``accuracy`` [steps], 0..1; ``auc``: its mean over the steps' range, by the trapezoid rule.

    >>> import torch
    >>> metric = PerturbationAccuracy(steps=[0.5, 0.9])
    >>> metric.update(torch.tensor([[1, 1], [0, 2]]), torch.tensor([1, 2]))
    >>> metric.compute()["accuracy"].tolist()
    [0.5, 1.0]
    """

    def __init__(self, steps: Sequence[float] = STEPS, **options) -> None:
        super().__init__(**options)
        self.places = list(steps)

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """``predictions`` [B, steps], the class given at each step; ``labels`` [B]."""
        self.rows.append((predictions == labels[:, None]).double())

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        accuracy = rows.mean(dim=0)
        steps = torch.tensor(self.places, dtype=accuracy.dtype, device=accuracy.device)
        return {
            "accuracy": accuracy,
            "auc": torch.trapezoid(accuracy, steps) / (steps[-1] - steps[0]),
        }
