"""Losses in which classes count differently: weights, and less of what is easy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed
from torch import Tensor


def checked_weights(given: str | Sequence[float] | None, classes: int) -> Tensor | None:
    """Weights of the classes, [C]; None where all count the same.

    Raises:
        ValueError: there are not as many as classes, all above 0.
    """
    if given is None:
        return None
    if isinstance(given, str) or len(given) != classes or not all(0 < x < 1e9 for x in given):
        shown = given if isinstance(given, str) else list(given)
        raise ValueError(
            f"class_weights is {shown!r:.80}; accepted: null, balanced, or {classes} numbers above "
            "0, one a class"
        )
    return torch.tensor(given, dtype=torch.float64)


def checked_focal(gamma: float) -> float:
    """Raises a ValueError of a gamma between 0 and 1, whose gradient has no end where p is 1."""
    if 0 < gamma < 1:
        raise ValueError(f"focal is {gamma}; accepted: 0, or 1 and more")
    return gamma


def balanced_weights(labels: Tensor, class_names: Sequence[str]) -> list[float]:
    """Weights that make the classes of a training set count the same.

    Of classes that exclude each other, ``labels`` [N], it is N / (C n_c) for n_c samples of a
    class. Of labels that may be there, [N, C], it is the weight of the samples that have a label,
    (N - n_c) / n_c.

    Raises:
        ValueError: a class has no samples.
    """
    if labels.ndim == 1:
        counts = labels.bincount(minlength=len(class_names)).double()
        weights = len(labels) / (len(counts) * counts)
    else:
        counts = (labels > 0.5).sum(dim=0).double()
        weights = (len(labels) - counts) / counts
    if not (weights.isfinite() & (weights > 0)).all():
        place = int((~(weights.isfinite() & (weights > 0))).nonzero()[0])
        raise ValueError(
            f"class_weights is 'balanced', and {class_names[place]!r:.40} has "
            f"{int(counts[place])} of {len(labels)} training samples; accepted: some samples with "
            "each class, and some without it"
        )
    return weights.tolist()


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """The mean of losses [B] by their weights [B], over the batches of all processes.

    DistributedDataParallel takes the mean of the gradients of the processes, so each divides by
    the mean of their sums of weights.
    """
    return (losses * weights).sum() / mean_of_processes(weights.sum())


def mean_of_processes(x: Tensor) -> Tensor:
    """The mean of what each process has."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return x
    total = x.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()
