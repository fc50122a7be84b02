"""Objects of pictures on the backgrounds of other pictures, whose own objects are filled in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
    (objects, _), (_, holes) = objects_and_holes(masks), objects_and_holes(other_masks)
    there = objects.flatten(1).any(dim=1) & ~holes.flatten(1).all(dim=1)
    return torch.where(objects[:, None], pictures, filled(others, holes)), there


def objects_and_holes(masks: Tensor) -> tuple[Tensor, Tensor]:
    """What is moved of a picture, and what is filled in there, bool [B, H, W] each.

    The object is moved with a margin. Its box is filled in, for an outline tells what it was where
    what is around it has a texture. Both are the mask alone where that box is the whole picture: of
    what an object surrounds nothing would be left.
    """
    several = masks if masks.ndim == 4 else masks[:, None]
    mask = several.any(dim=1)
    box = boxes(several.flatten(0, 1)).unflatten(0, several.shape[:2]).any(dim=1)
    is_around = box.flatten(1).all(dim=1)[:, None, None]
    return torch.where(is_around, mask, widened(mask)), torch.where(is_around, mask, box)


def margin_of(masks: Tensor) -> int:
    """Of masks [..., H, W], in pixels."""
    return max(1, round(MARGIN * max(masks.shape[-2:])))


def widened(masks: Tensor) -> Tensor:
    """Masks [B, H, W] with the margin around them."""
    margin = margin_of(masks)
    return F.max_pool2d(masks[:, None].float(), 2 * margin + 1, 1, margin)[:, 0] > 0


def boxes(masks: Tensor) -> Tensor:
    """The pixels of the box around each of masks [B, H, W], with its margin."""
    wide = widened(masks)
    rows, columns = (between(wide.any(dim=axis)) for axis in (2, 1))
    return rows[:, :, None] & columns[:, None, :]


def between(there: Tensor) -> Tensor:
    """True from the first True of each row [B, N] to its last."""
    behind, before = there.cumsum(dim=1) > 0, there.flip(1).cumsum(dim=1).flip(1) > 0
    return behind & before


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
