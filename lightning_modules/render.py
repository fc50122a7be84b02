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
from torch import Tensor

COLORMAP = matplotlib.colormaps["inferno"]  # perceptually uniform, readable when colour-blind
INCHES_PER_PANEL = 1.5
DPI = 100


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


def grid(rows: Sequence[Sequence[Panel]], heading: str, group: int) -> np.ndarray:
    """Panels in rows under a heading, with a colour bar: [H, W, 3], uint8.

    ``group``: every so many columns belong together; a gap follows.
    """
    columns = len(rows[0])
    figure = Figure(
        figsize=((columns + 0.9) * INCHES_PER_PANEL, (len(rows) * 1.22 + 0.5) * INCHES_PER_PANEL),
        dpi=DPI,
        layout="constrained",
    )
    figure.suptitle(heading, fontsize=11, parse_math=False)
    groups = figure.add_gridspec(1, columns // group, wspace=0.08)
    axes = []
    for g in range(columns // group):
        inner = groups[g].subgridspec(len(rows), group)
        for r, row in enumerate(rows):
            for c, panel in enumerate(row[g * group : (g + 1) * group]):
                axes.append(figure.add_subplot(inner[r, c]))
                _draw(axes[-1], panel)
    bar = figure.colorbar(
        ScalarMappable(cmap=COLORMAP), ax=axes, shrink=0.5, pad=0.02, ticks=[0, 1]
    )
    bar.ax.set_yticklabels(["least", "most"], fontsize=8)
    bar.set_label("relevance within a map", fontsize=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw(axis, panel: Panel | None) -> None:
    axis.set_axis_off()
    if panel is None:
        return
    axis.imshow(panel.image.clip(0, 1), interpolation="nearest")
    color = "#b00020" if panel.wrong else "black"
    axis.set_title(panel.title, fontsize=8, color=color, parse_math=False)


def short(name: str, length: int = 18) -> str:
    """A class name that fits over a picture: one printable line."""
    name = "".join(c if c.isprintable() else " " for c in name)
    return name if len(name) <= length else name[: length - 1] + "…"
