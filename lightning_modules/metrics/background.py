"""Whether decisions hang on the background."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.metrics.sampled import SampledMetric


class BackgroundEffect(SampledMetric):
    """How often a decision changes with the background, and how often it is right without its own.

    - ``background_effect``: share of samples whose decision another background changes.
    - ``background_control``: the same of the own background, with what is done to another's.
    - ``object_only``: accuracy on the objects over other backgrounds.
    - ``accuracy``: of the same samples as they are.

    Of several labels a decision changes where one of them does, and the accuracies are of all.

    >>> import torch
    >>> metric = BackgroundEffect()
    >>> before, on_other, on_own = torch.tensor([[0, 1, 1, 2], [0, 2, 2, 2], [0, 1, 1, 1]])
    >>> metric.update(before, on_other, on_own, truth=torch.tensor([0, 1, 2, 2]))
    >>> {name: value.item() for name, value in metric.compute().items()}
    {'background_effect': 0.5, 'background_control': 0.25, 'object_only': 0.75, 'accuracy': 0.75}
    """

    def update(self, decided: Tensor, on_other: Tensor, on_own: Tensor, truth: Tensor) -> None:
        """Add decisions about samples, [B] or of each label [B, C], and what is right."""
        changed = [(x != decided)[..., None].flatten(1).any(dim=1) for x in (on_other, on_own)]
        right = [
            (x == truth)[..., None].flatten(1).float().mean(dim=1) for x in (on_other, decided)
        ]
        self.rows.append(torch.stack([*(x.float() for x in changed), *right], dim=1))

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        names = ("background_effect", "background_control", "object_only", "accuracy")
        return dict(zip(names, rows.mean(dim=0), strict=True))
