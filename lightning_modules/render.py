"""Relevance as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from relprop import Explanation

SHOWN = 6  # samples in a picture
COLORMAP = matplotlib.colormaps["inferno"]  # perceptually uniform, readable when colour-blind
DPI = 100
WRONG = "#b00020"
# Of a grid, in pixels.
PANEL, TITLE, SPACE, MARGIN, HEADING, COLOR_BAR = 140, 36, 8, 10, 45, 80


def unnormalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Network inputs [B, 3, H, W] back to pictures, 0..1."""
    mean, std = (torch.tensor(x, device=images.device).view(-1, 1, 1) for x in (mean, std))
    return (images.float() * std + mean).clamp(0, 1)


def scale(heatmaps: Tensor) -> Tensor:
    """Each map [..., H, W] to 0..1, its own least and most; a flat map to 0."""
    low, high = (f(heatmaps, dim=(-2, -1), keepdim=True) for f in (torch.amin, torch.amax))
    return torch.where(high > low, (heatmaps - low) / (high - low), 0)


def overlay(image: Tensor, heatmap: Tensor) -> np.ndarray:
    """The picture [3, H, W], 0..1, in grey under its heatmap [H, W]: [H, W, 3], 0..1.

    The more relevant, the more of the colour: what is irrelevant stays dark and recognisable.
    """
    grey = image.float().mean(dim=0).cpu().numpy()[..., None]
    heat = scale(heatmap.float()).cpu().numpy()
    opacity = (0.2 + 0.6 * heat)[..., None]
    return (1 - opacity) * grey + opacity * COLORMAP(heat)[..., :3]


@dataclass(frozen=True)
class Panel:
    """One picture of a grid: an image [H, W, 3] in 0..1, and a line or two above it."""

    image: np.ndarray
    title: str
    wrong: bool = False  # the model is mistaken: the title is set apart


def grid(rows: Sequence[Sequence[Panel]], heading: str) -> np.ndarray:
    """Panels in rows under a heading, with a colour bar: [H, W, 3], uint8."""
    width = MARGIN + len(rows[0]) * (PANEL + SPACE) + COLOR_BAR
    height = HEADING + len(rows) * (TITLE + PANEL + SPACE)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    figure.text(MARGIN / width, 1 - 25 / height, heading, fontsize=11, va="center")
    for r, row in enumerate(rows):
        for c, panel in enumerate(row):
            left = MARGIN + c * (PANEL + SPACE)
            bottom = height - HEADING - (r + 1) * (TITLE + PANEL + SPACE)
            _place(figure, panel, left, bottom)
    bar_height = min(250, height - 2 * HEADING)
    bar = figure.colorbar(
        ScalarMappable(cmap=COLORMAP),
        cax=figure.add_axes(
            (
                (width - COLOR_BAR + 15) / width,
                (height - HEADING - TITLE - bar_height) / height,
                12 / width,
                bar_height / height,
            )
        ),
        ticks=[0, 1],
    )
    bar.ax.set_yticklabels(["least", "most"], fontsize=8)
    bar.set_label("relevance within a map", fontsize=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _place(figure: Figure, panel: Panel, left: int, bottom: int) -> None:
    """A panel at pixels from the lower left corner, without the cost of axes."""
    width, height = figure.bbox.size
    picture = Image.fromarray((panel.image.clip(0, 1) * 255).round().astype(np.uint8))
    picture.thumbnail((PANEL, PANEL), Image.Resampling.LANCZOS)
    zoom = PANEL / max(picture.size)
    size = [max(1, round(side * zoom)) for side in picture.size]
    figure.figimage(np.asarray(picture.resize(size, Image.Resampling.NEAREST)), left, bottom)
    figure.text(
        (left + PANEL / 2) / width,
        (bottom + PANEL + 4) / height,
        panel.title,
        fontsize=9,
        color=WRONG if panel.wrong else "black",
        ha="center",
        parse_math=False,
    )


def short(name: str, length: int = 18) -> str:
    """A class name that fits over a picture: one printable line."""
    name = "".join(c if c.isprintable() else " " for c in name)
    return name if len(name) <= length else name[: length - 1] + "…"


def explanation_picture(
    images: Tensor,
    explanations: Sequence[Explanation],
    titles: Sequence[str],
    class_names: Sequence[str],
    heading: str,
    labels: Tensor | None = None,
) -> np.ndarray:
    """One row a sample: the picture, and its map in each explanation: [H, W, 3], uint8.

    ``images`` [B, 3, H, W], 0..1; ``titles``, one an explanation, have ``{}`` for the class; where
    the class is not the one of ``labels`` [B], the title is red.
    """
    heatmaps = [explanation.heatmap(images.shape[-2:]) for explanation in explanations]
    probability = explanations[0].logits.softmax(dim=-1)
    rows = []
    for i in range(min(SHOWN, len(images))):
        row = [Panel(images[i].permute(1, 2, 0).cpu().numpy(), "input")]
        for explanation, maps, title in zip(explanations, heatmaps, titles, strict=True):
            target = explanation.target[i]
            wrong = labels is not None and bool(target != labels[i])
            name = title.format(short(class_names[target]))
            text = f"{name}\np = {probability[i, target]:.2f}"
            row.append(Panel(overlay(images[i], maps[i]), text, wrong))
        rows.append(row)
    return grid(rows, heading)
