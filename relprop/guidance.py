"""Losses on relevance maps, where it is known what of an input should count."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from relprop.registry import Registry

Loss = Callable[[Tensor, Tensor], Tensor]

GUIDANCE_LOSSES: Registry[Loss] = Registry("guidance loss")
"""From maps and masks [B, N], to the loss of each sample [B]."""

EPS = 1e-8


@GUIDANCE_LOSSES.register("share")
def share_loss(S: Tensor, m: Tensor) -> Tensor:
    """-log of the share of relevance that is on the object, sum S m / sum S.

    1 less that share is the energy loss of Rao, Boehle, Parchami-Araghi, Schiele (ICCV 2023).
    """
    return -torch.log(share_of(S, m))


@GUIDANCE_LOSSES.register("robustvit")
def robustvit_loss(S: Tensor, m: Tensor) -> Tensor:
    """2 mean((S (1 - m))^2) + 0.3 mean((S m - m)^2), S scaled to 0..1 in each map.

    That of "Optimizing Relevance Maps of Vision Transformers Improves Robustness" (Chefer,
    Schwartz, Wolf; NeurIPS 2022), over the pixels of a map drawn as large as the picture.
    """
    low, high = S.amin(dim=1, keepdim=True), S.amax(dim=1, keepdim=True)
    S = (S - low) / (high - low).masked_fill(high <= low, 1)
    background = (S * (1 - m)).square().mean(dim=1)
    foreground = (S * m - m).square().mean(dim=1)
    return 2 * background + 0.3 * foreground


@GUIDANCE_LOSSES.register("right_reasons")
def right_reasons_loss(S: Tensor, m: Tensor) -> Tensor:
    """sum S (1 - m), of S = (d sum_k log p_k / dx)^2.

    "Right for the Right Reasons" (Ross, Hughes, Doshi-Velez; IJCAI 2017, eq. 2).
    """
    return (S * (1 - m)).sum(dim=1)


def share_of(S: Tensor, m: Tensor) -> Tensor:
    """The share of relevance that is on the object, 0 to 1, [B]."""
    return ((S * m).sum(dim=1) + EPS) / (S.sum(dim=1) + EPS)


def guidance_loss(maps: Tensor, masks: Tensor, kind: str = "share") -> Tensor:
    """The mean loss of maps that should lie on what the masks mark.

    Samples without a mark do not count. Train on it with maps of a recording that is
    ``differentiable`` (:func:`relprop.record`).

    Args:
        maps: relevance [B, ...], as ``explanation.relevance`` or ``explanation.heatmap(size)``;
            what is negative counts as 0.
        masks: of the same shape, bool or 0 to 1: the share of each part that should count. Of
            patches: ``F.adaptive_avg_pool2d(masks, explanation.grid)``. 0 everywhere: nothing is
            known of the sample.
        kind: ``"share"`` (-log of the share of relevance there), ``"robustvit"``, or of squared
            gradients ``"right_reasons"``.

    Raises:
        ValueError: the shapes differ, a mask is not within 0 to 1, or there is no such loss.

    >>> maps, masks = torch.tensor([[3.0, 1.0]]), torch.tensor([[True, False]])
    >>> guidance_loss(maps, masks)  # -log(3 / 4)
    tensor(0.2877)
    """
    losses = guidance_losses(maps, masks, kind)
    if masks.numel() and not (0 <= masks.min() and masks.max() <= 1):
        low, high = masks.min().item(), masks.max().item()
        raise ValueError(f"masks go from {low:g} to {high:g}; accepted: bool, or 0 to 1")
    known = masks.flatten(1).any(dim=1)
    return losses[known].sum() / known.sum().clamp(min=1)


def guidance_losses(maps: Tensor, masks: Tensor, kind: str = "share") -> Tensor:
    """As :func:`guidance_loss`, of each sample, [B]."""
    loss = GUIDANCE_LOSSES.find(kind, f"kind is {kind!r}")
    if maps.shape != masks.shape or maps.ndim < 2:
        raise ValueError(
            f"masks have shape {list(masks.shape)}, and maps {list(maps.shape)}; accepted: the "
            "same, [B, ...]"
        )
    return loss(maps.flatten(1).relu(), masks.flatten(1).to(maps))
