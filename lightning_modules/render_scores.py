"""Scores of explanation methods as a table in the terminal, as CSV and JSON, and as curves."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from lightning_modules.protocols import METHODS, Protocol
from lightning_modules.protocols.base import RANDOM, Score

# A method has the same colour in every picture; the paper's own is the dark one.
PALETTE = ["black", *map(matplotlib.colors.to_hex, matplotlib.colormaps["tab20"].colors)]
COLORS = dict(zip(METHODS, PALETTE[: len(METHODS)], strict=True)) | {RANDOM: "#bbbbbb"}
DASHED = ("without_gradient", "without_relevance", "last_block", "second_block", RANDOM)


def table(protocol: Protocol, scores: Sequence[Score], title: str) -> Table:
    """Methods down, places on the curve across: percent, and half the width of its interval."""
    result = Table(
        title=f"{title}, percent",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    result.add_column(protocol.x_name, no_wrap=True)
    shown = [score for score in scores if score.name == protocol.curve]
    for x in dict.fromkeys(score.x for score in shown):
        result.add_column(f"{x:g}", justify="right", no_wrap=True)
    for method in dict.fromkeys(score.method for score in shown):
        cells = [
            f"{100 * s.value:.1f}\n[dim]±{50 * (s.high - s.low):.1f}[/dim]"
            for s in shown
            if s.method == method
        ]
        result.add_row(method, *cells)
    return result


def write_csv(scores: Sequence[Score], path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in dataclasses.fields(Score)])
        writer.writerows(dataclasses.astuple(score) for score in scores)


def write_json(scores: Sequence[Score], about: Mapping[str, Any], path: Path) -> None:
    """``about``: what was evaluated, and how."""
    content = {**about, "scores": [dataclasses.asdict(score) for score in scores]}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def curves(protocol: Protocol, scores: Sequence[Score], title: str, path: Path) -> None:
    """One line a method, its 95% interval as a band."""
    figure = Figure(figsize=(8, 4.8), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for method in dict.fromkeys(score.method for score in scores):
        points = [s for s in scores if s.method == method and s.name == protocol.curve]
        x = [point.x for point in points]
        axes.plot(
            x,
            [point.value for point in points],
            color=COLORS[method],
            linestyle="--" if method in DASHED else "-",
            linewidth=2.5 if method == METHODS[0] else 1.5,
            label=method,
        )
        axes.fill_between(
            x,
            [point.low for point in points],
            [point.high for point in points],
            color=COLORS[method],
            alpha=0.08,
            linewidth=0,
        )
    axes.set(
        xlabel=f"{protocol.x_name}, {protocol.x_label}",
        ylabel=protocol.y_label,
        ylim=(0, None),
        title=title,
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    FigureCanvasAgg(figure).print_png(path)
