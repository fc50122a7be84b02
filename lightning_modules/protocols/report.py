"""Scores of explanation methods as a table in the terminal, as CSV and JSON, and as curves."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

import relprop
from lightning_modules.protocols.base import MODEL, Protocol, Score
from lightning_modules.protocols.baselines import BASELINES
from lightning_modules.protocols.explainer import scored_methods
from lightning_modules.utils.files import replace_file
from relprop import methods

PALETTE = ["black"] + [
    matplotlib.colors.to_hex(color)
    for name in ("tab20", "tab20b", "tab20c")
    for color in matplotlib.colormaps[name].colors
]


def color_of(method: str) -> str:
    """The colour of a method, the same in every picture: black for the paper's, grey for chance.

    The engine's methods and the baselines come first, in their order; own ones follow.
    """
    if method == "random":
        return "#bbbbbb"
    if method == MODEL:
        return "#4477aa"
    own = [name for name, x in relprop.METHODS.items() if x.function.__module__ != methods.__name__]
    known = [name for name in (*relprop.METHODS, *BASELINES) if name not in own]
    return PALETTE[[*known, *own].index(method) % len(PALETTE)]


def is_dashed(method: str) -> bool:
    """True for parts of other methods, and for chance."""
    return method == "random" or scored_methods()[method].ablation


def table(protocol: Protocol, scores: Sequence[Score], title: str, kind: str) -> Table:
    """Methods down, scores across: percent, and half the width of the 95% interval.

    Beside them the paper's figures, where ``kind`` are its data.
    """
    result = Table(
        title=f"{title}, percent",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    found = {(score.method, score.name, score.x): score for score in scores}
    of_paper = kind == protocol.paper_data
    result.add_column("method", no_wrap=True)
    for column in protocol.columns:
        result.add_column(column.heading, justify="right")
        if of_paper:
            result.add_column("paper", justify="right", style="dim")
    for method in dict.fromkeys(score.method for score in scores):
        cells = []
        for column in protocol.columns:
            s = found[method, column.name, column.x]
            cells.append(f"{100 * s.value:.1f}\n[dim]±{50 * (s.high - s.low):.1f}[/dim]")
            if of_paper:
                cells.append(f"{column.paper[method]:.2f}" if method in column.paper else "-")
        result.add_row(Text(method), *cells)
    return result


def write_csv(scores: Sequence[Score], path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Score)])
    writer.writerows(dataclasses.astuple(score) for score in scores)
    replace_file(path, lambda file: file.write(text.getvalue().encode()))


def write_json(scores: Sequence[Score], about: Mapping[str, Any], path: Path) -> None:
    """``about``: what was evaluated, and how."""
    content = {**about, "scores": [dataclasses.asdict(score) for score in scores]}
    text = json.dumps(content, indent=2) + "\n"
    replace_file(path, lambda file: file.write(text.encode()))


def picture(protocol: Protocol, scores: Sequence[Score], title: str, path: Path) -> None:
    """The protocol's curves, or else its columns as bars; intervals as bands and whiskers.

    Of a model the columns stand in one panel, of methods each has its own.
    """
    headings = {column.name: column.heading for column in protocol.columns}
    panels = {MODEL: "share"} if protocol.of_model else protocol.curves or headings
    figure = Figure(figsize=(2.6 + 4.6 * len(panels), 4.8), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=not protocol.curves)[0]
    for ax, (name, label) in zip(axes, panels.items(), strict=True):
        shown = [score for score in scores if score.name == name]
        if protocol.of_model:
            draw_bars(ax, scores, [headings[score.name] for score in scores])
            ax.set(xlabel=label, xlim=(0, 1))
        elif protocol.curves:
            draw_curves(ax, shown)
            ax.set(xlabel=protocol.x_label, ylabel=label, ylim=(0, None))
        else:
            draw_bars(ax, shown, [score.method for score in shown])
            ax.set(xlabel=label)
        ax.grid(alpha=0.3)
    if protocol.curves:
        axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.suptitle(title, fontsize=11)
    replace_file(path, FigureCanvasAgg(figure).print_png)


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
