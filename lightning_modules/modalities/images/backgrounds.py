"""Objects of pictures on the backgrounds of other pictures, whose own objects are filled in."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

DIRECTIONS = 16  # in which a hull is measured
MARGIN = 1 / 64  # of the longer side: how far what a mask misses of an object's edge may reach


def on_backgrounds(
    pictures: Tensor, masks: Tensor, others: Tensor, other_masks: Tensor
) -> tuple[Tensor, Tensor]:
    """Each object, pixel for pixel and with a margin, over the background of another picture.

    Strokes that touched those of another background could not be told apart from them: without the
    margin, which keeps a line of the own background between them, scenes of digits are misread for
    that alone.

    Args:
        pictures: [B, 3, H, W].
        masks: where the object is, bool [B, H, W]; or the object of each label, [B, C, H, W].
        others: the pictures whose backgrounds are taken, [B, 3, H, W].
        other_masks: of the objects that are filled in there.

    Returns:
        The pictures [B, 3, H, W]; and where there is an object as well as a background, bool [B].
    """
    objects, holes = grown(joined(masks)), hulls(other_masks)
    there = objects.flatten(1).any(dim=1) & ~holes.flatten(1).all(dim=1)
    return torch.where(objects[:, None], pictures, filled(others, holes)), there


def joined(masks: Tensor) -> Tensor:
    """The pixels of any object, bool [B, H, W]."""
    return masks.any(dim=1) if masks.ndim == 4 else masks


def margin_of(masks: Tensor) -> int:
    """Of masks [..., H, W], in pixels."""
    return max(1, round(MARGIN * max(masks.shape[-2:])))


def grown(masks: Tensor) -> Tensor:
    """Masks [B, H, W] with the margin around them."""
    margin = margin_of(masks)
    return F.max_pool2d(masks[:, None].float(), 2 * margin + 1, 1, margin)[:, 0] > 0


def hulls(masks: Tensor) -> Tensor:
    """The convex hull of each object with a margin around it, joined, bool [B, H, W].

    The outline of an object tells what it was, where its surroundings have a texture that what is
    filled in lacks. A hull has no outline of strokes, holes and limbs, and the margin takes in
    the edge that a mask may miss.
    """
    if masks.ndim == 4:
        return joined(hulls(masks.flatten(0, 1)).unflatten(0, masks.shape[:2]))
    rows, columns = (torch.arange(length, device=masks.device) for length in masks.shape[-2:])
    inside = masks.flatten(1).any(dim=1)[:, None, None].expand_as(masks)
    for step in range(DIRECTIONS):
        angle = 2 * math.pi * step / DIRECTIONS
        along = rows[:, None] * math.sin(angle) + columns * math.cos(angle)
        reach = along.expand(masks.shape).masked_fill(~masks, -torch.inf).amax(dim=(1, 2))
        inside = inside & (along <= reach[:, None, None] + margin_of(masks))
    return inside


def filled(pictures: Tensor, holes: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] whose ``holes``, bool [B, H, W], are blended in from around them.

    By pull-push (Gortler et al. 1996): what is known is averaged to ever coarser pictures, and each
    hole takes the finest that knows something there.
    """
    return pushed(pictures.float(), (~holes)[:, None].float()).to(pictures)


def pushed(values: Tensor, known: Tensor) -> Tensor:
    """``values`` [B, 3, H, W], blended in where ``known`` [B, 1, H, W] is 0."""
    if known.all() or max(values.shape[-2:]) == 1:
        return values
    share = F.avg_pool2d(known, 2, ceil_mode=True)
    coarse = F.avg_pool2d(values * known, 2, ceil_mode=True) / share.clamp(min=1e-9)
    coarse = pushed(coarse, (share > 0).float())
    smooth = F.interpolate(coarse, size=values.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(known > 0, values, smooth)
