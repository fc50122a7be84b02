"""Scores of explanation methods as a table in the terminal, as CSV and as JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from lightning_modules.protocols.base import Protocol
from lightning_modules.protocols.scores import BEST, NOT_WORSE, Score
from lightning_modules.utils.files import replace_file

ARROWS = {None: "", "higher": "↑", "lower": "↓"}  # to better values
MARKS = {BEST: "●", NOT_WORSE: "○"}


def table(protocol: Protocol, scores: Sequence[Score], title: str, kind: str) -> Table:
    """Methods down, scores across: percent, and half the width of the 95% interval.

    Beside them the paper's figures, where ``kind`` are its data. :func:`notes` says what the marks
    are.
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
        heading = f"{column.heading} {ARROWS[column.better]}".rstrip()
        result.add_column(heading, justify="right")
        if of_paper:
            result.add_column("paper", justify="right", style="dim")
    for method in dict.fromkeys(score.method for score in scores):
        cells = []
        for column in protocol.columns:
            cells.append(cell(found.get((method, column.name, column.x))))
            if of_paper:
                cells.append(f"{column.paper[method]:.2f}" if method in column.paper else "-")
        result.add_row(Text(method), *cells)
    return result


def cell(score: Score | None) -> Text:
    """A number with its marks; "-" where the method has none."""
    if score is None:
        return Text("-")
    mark = ("*" if score.differs else "") + MARKS.get(score.standing, "")
    number = Text(f"{percent(score.value)}{mark}", "bold" if score.standing == BEST else "")
    return number.append(f"\n±{percent((score.high - score.low) / 2)}", "not bold dim")


def percent(share: float) -> str:
    """With one decimal; of what has exploded the magnitude alone."""
    return f"{100 * share:.1f}" if abs(share) < 1000 else f"{100 * share:.0e}"


def notes(protocol: Protocol, scores: Sequence[Score], reference: str) -> list[Text]:
    """What the marks of the table mean, where it has any."""
    shown = {(column.name, column.x) for column in protocol.columns}
    shown_scores = [score for score in scores if (score.name, score.x) in shown]
    comparisons = sum(score.difference is not None for score in shown_scores)
    lines = []
    if comparisons:
        differ = sum(score.differs for score in shown_scores)
        lines.append(
            f"* not as {reference}: the 95% interval of the difference on the same samples is "
            f"clear of 0. {comparisons} comparisons, {differ} of them clear; of as many without "
            f"any difference about {0.05 * comparisons:.1f} would be"
        )
    if any(score.standing for score in shown_scores):
        lines.append(
            f"{MARKS[BEST]} best; {MARKS[NOT_WORSE]} not clearly worse: the interval of the "
            "difference to the best reaches 0"
        )
    return [Text(line) for line in lines]


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
