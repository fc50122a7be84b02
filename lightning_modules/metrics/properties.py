"""What a map is like, whatever the labels: does it add up, is it simple, is it stable?"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.metrics.sampled import SampledMetric


class Completeness(SampledMetric):
    """|sum R - y| / |y|: how far the sum of a map R is from the output y that it explains.

    0 where relevance is conserved on its way to the parts of the input; lower is better. The median
    over samples, for y may be near 0.

    >>> import torch
    >>> metric = Completeness()
    >>> metric.update(torch.tensor([1.5, 2.0, 9.0]), torch.tensor([2.0, 2.0, 1.0]))
    >>> metric.compute()["error"].item()
    0.25
    """

    higher_is_better = False

    def update(self, sums: Tensor, outputs: Tensor) -> None:
        """The sum of each map and the output that it explains, [B] both."""
        self.rows.append(((sums - outputs).abs() / outputs.abs()).double())

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        return {"error": rows.quantile(0.5)}


class Complexity(SampledMetric):
    """The entropy of |R| / sum |R| (Bhatt et al. 2020), as a share of the greatest, log n.

    0 where one of the n parts has all relevance, 1 where all have as much, or none has any. Lower
    is better: fewer parts say it. Mean over samples.

    >>> import torch
    >>> metric = Complexity()
    >>> metric.update(torch.tensor([[0.0, -2.0, 2.0, 0.0], [1.0, 1.0, float("nan"), 0.0]]))
    >>> round(metric.compute()["entropy"].item(), 3)  # log 2 / log 4, log 2 / log 3
    0.565
    """

    higher_is_better = False

    def update(self, maps: Tensor) -> None:
        """``maps`` [B, ...]; NaN on what is no part of a sample."""
        sizes = maps.flatten(1).double().abs()
        counts = (~sizes.isnan()).sum(dim=1)
        shares = sizes.nan_to_num(0)
        shares = shares / shares.sum(dim=1, keepdim=True)
        entropy = -torch.special.xlogy(shares, shares).sum(dim=1)
        self.rows.append((entropy / counts.clamp(min=2).log()).nan_to_num(1.0))

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        return {"entropy": rows.mean()}


class Sensitivity(SampledMetric):
    """The largest change of a map under small noise (max-sensitivity, Yeh et al. 2019).

    max_d |R(x + noise_d) - R(x)| / |R(x)| over the draws d, in the Euclidean norm; lower is better.
    The median over samples, for |R(x)| may be near 0. A map that is 0 everywhere has changed by 0,
    or by 1.

    >>> import torch
    >>> metric = Sensitivity()
    >>> metric.update(torch.tensor([[3.0, 4.0]]), torch.tensor([[[3.0, 4.0]], [[3.0, 9.0]]]))
    >>> metric.compute()["change"].item()
    1.0
    """

    higher_is_better = False

    def update(self, maps: Tensor, noisy: Tensor) -> None:
        """``maps`` [B, ...]; ``noisy`` [draws, B, ...], those of the same samples under noise."""
        maps, noisy = maps.flatten(1).double(), noisy.flatten(2).double()
        changes = (noisy - maps).nan_to_num(0).norm(dim=2).amax(dim=0)
        sizes = maps.nan_to_num(0).norm(dim=1)
        flat = (changes > 0).double()
        self.rows.append(torch.where(sizes > 0, changes / sizes, flat))

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        return {"change": rows.quantile(0.5)}
