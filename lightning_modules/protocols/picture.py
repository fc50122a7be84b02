"""Scores of explanation methods as a picture: curves or bars, and their differences."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

import relprop
from lightning_modules.protocols.base import MODEL, Protocol
from lightning_modules.protocols.baselines import BASELINES, CHANCE
from lightning_modules.protocols.explainer import scored_methods
from lightning_modules.protocols.scores import Score
from lightning_modules.utils.files import replace_file
from relprop import methods

LETTERS = 11  # of a title, that an inch holds
GREYS = dict(zip(CHANCE, ("#777777", "#bbbbbb"), strict=True))
LINES = 16  # of a legend, as high as the curves
PALETTE = ["black"] + [
    matplotlib.colors.to_hex(color)
    for name in ("tab20", "tab20b", "tab20c")
    for color in matplotlib.colormaps[name].colors
    if len(set(color)) > 1  # greys are for chance
]


def color_of(method: str) -> str:
    """The colour of a method, the same in every picture: black for the paper's, grey for chance.

    The engine's methods and the baselines come first, in their order; own ones follow.
    """
    if method in GREYS:
        return GREYS[method]
    if method == MODEL:
        return "#4477aa"
    ours = f"{methods.__name__}."
    own = [x.name for x in relprop.METHODS.values() if not x.function.__module__.startswith(ours)]
    known = [name for name in (*relprop.METHODS, *BASELINES) if name not in own]
    return PALETTE[[*known, *own].index(method) % len(PALETTE)]


def is_dashed(method: str) -> bool:
    """True for parts of other methods, and for chance."""
    return method in CHANCE or scored_methods()[method].ablation


def picture(
    protocol: Protocol, scores: Sequence[Score], title: str, path: Path, reference: str
) -> None:
    """The protocol's curves, or else its columns as bars; intervals as bands and whiskers.

    Of a model the columns stand in one panel, of methods each has its own. Below them, a panel a
    column, is what methods differ from the ``reference`` by.
    """
    headings = {column.name: column.heading for column in protocol.columns}
    panels = {MODEL: "share"} if protocol.of_model else protocol.curves or headings
    compared = len({score.method for score in scores if score.difference is not None})
    below = 1.2 + 0.2 * compared if compared else 0
    width = max(2.6 + 4.6 * len(panels), 2.6 + 1.7 * len(protocol.columns) * bool(compared))
    figure = Figure(figsize=(width, 4.8 + below), dpi=110, layout="constrained")
    parts = figure.subfigures(
        2 if compared else 1, squeeze=False, height_ratios=[4.8, below][: 1 + bool(compared)]
    )
    draw_scores(parts[0, 0], protocol, scores, panels, headings)
    if compared:
        draw_differences(parts[1, 0], protocol, scores, reference)
    figure.suptitle(textwrap.fill(title, int(LETTERS * width)), fontsize=11)
    replace_file(path, FigureCanvasAgg(figure).print_png)


def draw_scores(
    figure: SubFigure,
    protocol: Protocol,
    scores: Sequence[Score],
    panels: Mapping[str, str],
    headings: Mapping[str, str],
) -> None:
    """The scores themselves, a panel each of the ``panels``: score or model, and its label."""
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=not protocol.curves)[0]
    for ax, (name, label) in zip(axes, panels.items(), strict=True):
        shown = [score for score in scores if score.name == name]
        if protocol.of_model:
            draw_bars(ax, scores, [headings[score.name] for score in scores])
            ax.set(xlabel=label, xlim=(0, 1))
        elif protocol.curves:
            draw_curves(ax, shown)
            lowest = min([0, *(score.low for score in shown)])
            ax.set(xlabel=protocol.x_label, ylabel=label, ylim=(lowest, None))
        else:
            draw_bars(ax, shown, [score.method for score in shown])
            ax.set(xlabel=label)
        ax.grid(alpha=0.3)
    if protocol.curves:
        columns = math.ceil(len({score.method for score in scores}) / LINES)
        place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        axes[-1].legend(ncols=columns, frameon=False, **place)


def draw_differences(
    figure: SubFigure, protocol: Protocol, scores: Sequence[Score], reference: str
) -> None:
    """The differences of each column; filled where the interval is clear of 0."""
    figure.suptitle(f"less {reference}, on the same samples; filled: clear of 0", fontsize=10)
    names = list(dict.fromkeys(score.method for score in scores if score.difference is not None))
    axes = figure.subplots(1, len(protocol.columns), squeeze=False, sharey=True)[0]
    for ax, column in zip(axes, protocol.columns, strict=True):
        for score in scores:
            if (score.name, score.x) != (column.name, column.x) or score.difference is None:
                continue
            color, place = color_of(score.method), names.index(score.method)
            ax.plot([score.difference_low, score.difference_high], [place, place], color=color)
            filled = color if score.differs else "white"
            ax.plot(score.difference, place, "o", color=color, markerfacecolor=filled, markersize=4)
        ax.axvline(0, color="#888888", linewidth=1)
        ax.set(xlabel=column.heading, yticks=range(len(names)), yticklabels=names)
        ax.grid(alpha=0.3)
    axes[0].set_ylim(len(names) - 0.5, -0.5)  # the first on top


def draw_curves(ax: Axes, scores: Sequence[Score]) -> None:
    for method in dict.fromkeys(score.method for score in scores):
        points = [score for score in scores if score.method == method]
        x, color = [point.x for point in points], color_of(method)
        ax.plot(
            x,
            [point.value for point in points],
            color=color,
            linestyle="--" if is_dashed(method) else "-",
            linewidth=2.5 if method == "transformer_attribution" else 1.5,
            label=method,
        )
        low, high = ([getattr(point, end) for point in points] for end in ("low", "high"))
        ax.fill_between(x, low, high, color=color, alpha=0.08, linewidth=0)


def draw_bars(ax: Axes, scores: Sequence[Score], labels: Sequence[str]) -> None:
    values = np.array([score.value for score in scores])
    ends = np.array([[score.low for score in scores], [score.high for score in scores]])
    ax.barh(
        labels,
        values,
        xerr=np.abs(ends - values),
        color=[color_of(score.method) for score in scores],
        ecolor="#888888",
    )
    ax.invert_yaxis()
