"""What happens to a decision when pixels go, in the order of their relevance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.metrics.sampled import SampledMetric

STEPS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def perturb(
    images: Tensor, heatmaps: Tensor, share: float, most_relevant: bool, fill: Tensor
) -> Tensor:
    """The images [B, C, H, W] without a ``share`` of their pixels, in order of relevance.

    ``heatmaps`` [B, H, W]; ``most_relevant`` first (positive perturbation) or least first
    (negative); ``fill``: what takes their place, a colour [C] or pictures [B, C, H, W].

    >>> images, heatmaps = torch.ones(1, 1, 2, 2), torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])
    >>> perturb(images, heatmaps, 0.5, most_relevant=True, fill=torch.zeros(1)).tolist()
    [[[[0.0, 0.0], [1.0, 1.0]]]]
    """
    order = heatmaps.flatten(1) if most_relevant else -heatmaps.flatten(1)
    gone = order.topk(int(share * order.shape[1]), dim=1).indices
    mask = torch.zeros_like(order, dtype=torch.bool).scatter_(1, gone, True)
    fill = fill[:, None, None] if fill.ndim == 1 else fill
    return torch.where(mask.view_as(heatmaps)[:, None], fill, images)


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


class PerturbationProbability(SampledMetric):
    """The mean probability p of the class while parts are removed, and the areas under it.

    Deletion and insertion (Petsiuk et al. 2018), over all shares from 0 to 1 by the trapezoid rule:

    - ``deletion``: the area under p while the most relevant parts go first. Lower is better.
    - ``insertion``: the same while they come back first, into a sample without any. It is that of
      the least relevant going first, read from its end. Higher is better.
    - ``between``: insertion less deletion, the area between the two curves. Higher is better.
    - ``most_relevant_first``, ``least_relevant_first``: p at each share removed, [steps + 2].

    >>> import torch
    >>> metric = PerturbationProbability(steps=[0.5])
    >>> full, most, least, none = torch.tensor([[0.8]]), *torch.tensor([[[0.1]], [[0.7]], [[0.1]]])
    >>> metric.update(full[:, 0], most, least, none[:, 0])
    >>> {n: round(x.item(), 3) for n, x in metric.compute().items() if x.ndim == 0}
    {'deletion': 0.275, 'insertion': 0.575, 'between': 0.3}
    """

    def __init__(self, steps: Sequence[float] = STEPS, **options) -> None:
        super().__init__(**options)
        self.places = [0.0, *steps, 1.0]

    def update(self, full: Tensor, most: Tensor, least: Tensor, none: Tensor) -> None:
        """p of the whole samples [B] and of those without any part [B].

        Between them ``most`` and ``least`` [B, steps]: without the most, the least relevant parts.
        """
        curves = [torch.cat([full[:, None], x, none[:, None]], dim=1) for x in (most, least)]
        self.rows.append(torch.stack(curves, dim=1).double())

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        most, least = rows.mean(dim=0)
        shares = torch.tensor(self.places, dtype=rows.dtype, device=rows.device)
        deletion, insertion = torch.trapezoid(most, shares), torch.trapezoid(least, shares)
        return {
            "most_relevant_first": most,
            "least_relevant_first": least,
            "deletion": deletion,
            "insertion": insertion,
            "between": insertion - deletion,
        }
