"""Relevance as heatmaps over pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_modules.modalities.drawing import PANEL, SHOWN, colors, explanation_grid, scale
from lightning_modules.tasks import Caption
from relprop import Explanation

OUTLINE = "#00e5ff"  # of what a model has selected; in none of the colours of maps
SELECTED = "parts outlined"  # beside the name of a picture with boxes


def unnormalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Network inputs [B, 3, H, W] back to pictures, 0..1."""
    mean, std = (torch.tensor(x, device=images.device).view(-1, 1, 1) for x in (mean, std))
    return (images.float() * std + mean).clamp(0, 1)


def overlay(image: Tensor, heatmap: Tensor, signed: bool = False) -> np.ndarray:
    """The picture [3, H, W], 0..1, in grey under its heatmap [H, W]: [H, W, 3], 0..1.

    The more relevant, the more of the colour: what is irrelevant stays dark and recognisable.
    """
    grey = image.float().mean(dim=0).cpu().numpy()[..., None]
    heat = scale(heatmap.float(), signed)
    opacity = (0.2 + 0.6 * heat.abs()).cpu().numpy()[..., None]
    return (1 - opacity) * grey + opacity * colors(heat, signed)


def outlined(picture: np.ndarray, boxes: Tensor) -> np.ndarray:
    """The picture [H, W, 3], 0..1, with an outline around each of ``boxes`` [K, 4] in its pixels.

    A small picture is enlarged, pixel by pixel, so that lines are thinner than its pixels.
    """
    zoom = max(1, round(PANEL / max(picture.shape[:2])))
    drawn = Image.fromarray((picture.repeat(zoom, 0).repeat(zoom, 1) * 255).round().astype("uint8"))
    pen = ImageDraw.Draw(drawn)
    for left, top, right, bottom in (boxes * zoom).round().int().tolist():
        pen.rectangle((left, top, right - 1, bottom - 1), outline=OUTLINE, width=2)
    return np.asarray(drawn, dtype=np.float32) / 255


def explanation_picture(
    images: Tensor,
    explanations: Sequence[Explanation],
    captions: Sequence[Sequence[Caption | None]],
    heading: str,
    signed: bool = False,
) -> np.ndarray:
    """One row a sample: the picture, and its map in each explanation: [H, W, 3], uint8.

    The boxes of an explanation, of what the model has selected, are drawn on the picture.
    ``images`` [B, 3, H, W], 0..1; the others as of :func:`~.drawing.explanation_grid`.
    """
    images = images[:SHOWN]
    heatmaps = [x.heatmap(images.shape[-2:])[:SHOWN] for x in explanations]
    drawn = [
        [overlay(image, heatmap, signed) for image, heatmap in zip(images, maps, strict=True)]
        for maps in heatmaps
    ]
    pictures = [image.permute(1, 2, 0).cpu().numpy() for image in images]
    boxes = getattr(explanations[0], "boxes", None) if explanations else None
    if boxes is not None:
        pictures = [outlined(x, of) for x, of in zip(pictures, boxes, strict=False)]
    called = "input" if boxes is None else f"input, {SELECTED}"
    return explanation_grid(pictures, drawn, captions, heading, signed, [called] * len(pictures))


def draw_over(
    picture: np.ndarray, relevance: Tensor, region: list[int], signed: bool
) -> np.ndarray:
    """The picture [H, W, 3] under its heatmap, in grey where the model has not looked."""
    height, width = picture.shape[:2]
    left, top, right, bottom = region
    drawn = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2)
    smooth = F.interpolate(
        relevance[None, None], size=(bottom - top, right - left), mode="bilinear"
    )[0, 0]
    inside, within = clip(region, width, height)
    seen = torch.from_numpy(picture[inside]).permute(2, 0, 1)
    drawn[inside] = overlay(seen, smooth[within], signed)
    return drawn


def draw_alone(
    relevance: Tensor, region: list[int], size: tuple[int, int], signed: bool
) -> np.ndarray:
    """The heatmap's own values at their place in the picture; white where it has none."""
    width, height = size
    left, top, right, bottom = region
    blocks = F.interpolate(
        scale(relevance, signed)[None, None], size=(bottom - top, right - left), mode="nearest"
    )[0, 0]
    inside, within = clip(region, width, height)
    drawn = np.ones((height, width, 3), dtype=np.float32)
    drawn[inside] = colors(blocks[within], signed)
    return drawn


def clip(region: list[int], width: int, height: int) -> tuple[tuple, tuple]:
    """The part of the picture that a region covers, and the part of the region that covers it."""
    left, top, right, bottom = region
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    inside = (slice(y0, y1), slice(x0, x1))
    return inside, (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
