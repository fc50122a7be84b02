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

SHOWN = 8  # samples in a picture
GROUPS = 2  # of them side by side
COLORMAP = matplotlib.colormaps["inferno"]  # perceptually uniform, readable when colour-blind
DPI = 100
WRONG = "#b00020"
# Of a grid, in pixels.
PANEL, TITLE, SPACE, GAP, MARGIN, HEADING, COLOR_BAR = 135, 32, 6, 30, 10, 45, 80


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


def grid(rows: Sequence[Sequence[Panel | None]], heading: str, group: int) -> np.ndarray:
    """Panels in rows under a heading, with a colour bar: [H, W, 3], uint8.

    ``group``: so many columns belong together, a gap sets them apart; None is an empty place.
    """
    columns = len(rows[0])
    gaps = columns // group - 1
    width = MARGIN + columns * (PANEL + SPACE) + gaps * GAP + COLOR_BAR
    height = HEADING + len(rows) * (TITLE + PANEL + SPACE)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    figure.text(MARGIN / width, 1 - 25 / height, heading, fontsize=11, va="center")
    for r, row in enumerate(rows):
        for c, panel in enumerate(row):
            if panel is not None:
                left = MARGIN + c * (PANEL + SPACE) + c // group * GAP
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
        fontsize=8,
        color=WRONG if panel.wrong else "black",
        ha="center",
        parse_math=False,
    )


def short(name: str, length: int = 18) -> str:
    """A class name that fits over a picture: one printable line."""
    name = "".join(c if c.isprintable() else " " for c in name)
    return name if len(name) <= length else name[: length - 1] + "…"


# ------------------------------------------------------------------- pictures of the tracker


def probe_picture(
    images: Tensor,
    labels: Tensor,
    of_true: Explanation,
    of_predicted: Explanation,
    class_names: list[str],
    epoch: int,
) -> np.ndarray:
    """Input, map for the true class and map for the predicted class of the first probes."""
    probability = of_true.logits.softmax(dim=-1)
    maps = [e.heatmap(images.shape[-2:]) for e in (of_true, of_predicted)]
    panels = []
    for i in range(min(SHOWN, len(images))):
        panels.append(Panel(images[i].permute(1, 2, 0).cpu().numpy(), "input"))
        for kind, explanation, heat in (
            ("true", of_true, maps[0]),
            ("predicted", of_predicted, maps[1]),
        ):
            target = explanation.target[i]
            title = f"{kind}: {short(class_names[target])}\np = {probability[i, target]:.2f}"
            wrong = bool(target != labels[i])
            panels.append(Panel(overlay(images[i], heat[i]), title, wrong))
    heading = f"Why each class? Validation samples after epoch {epoch}"
    return grid(_rows(panels, 3), heading, group=3)


def pair_picture(
    images: Tensor, explanations: list[Explanation], class_names: list[str], epoch: int
) -> np.ndarray:
    """Scenes with two objects, and the map for the class of each."""
    probability = explanations[0].logits.softmax(dim=-1)
    panels = []
    for i in range(min(SHOWN, len(images))):
        panels.append(Panel(images[i].permute(1, 2, 0).cpu().numpy(), "input"))
        for explanation in explanations:
            target = explanation.target[i]
            heat = explanation.heatmap(images.shape[-2:])[i]
            title = f"why {short(class_names[target])}?\np = {probability[i, target]:.2f}"
            panels.append(Panel(overlay(images[i], heat), title))
    heading = f"Two objects a scene, one map for each class, after epoch {epoch}"
    return grid(_rows(panels, 3), heading, group=3)


def _rows(panels: list[Panel], group: int) -> list[list[Panel | None]]:
    """Groups of panels in rows of GROUPS, the last row filled up."""
    width = group * GROUPS
    panels = panels + [None] * (-len(panels) % width)
    return [panels[i : i + width] for i in range(0, len(panels), width)]
