"""The tables of docs/results.md and its picture, of evaluations that explain.py has made.

python -m benchmarks.results FOLDER [--picture ranks.png]

FOLDER has a folder of scores for each evaluation, named DATA-PROTOCOL: what --output was of
explain.py evaluate --method all. Printed are the table of each, and one of differences to the
method compared with: the leading score of each evaluation, with paired 95% intervals. The picture
has the rank of each method by those scores.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from lightning_modules.protocols import PROTOCOLS, Score, scored_methods
from lightning_modules.protocols.base import BETTER, Column
from lightning_modules.protocols.baselines import CHANCE
from lightning_modules.protocols.report import ARROWS, MARKS, percent
from lightning_modules.protocols.scores import BEST, NOT_WORSE
from lightning_modules.utils.cli import Parser

WORDS = (5, 20, 80)  # the most relevant ones, of which F1 is shown
LEADING = {  # the scores that methods are ranked by, and what the picture calls them
    "perturbation": {"probability/between": "perturbation"},
    "segmentation": {"mIoU": "mIoU", "pointing_game/hits": "pointing game"},
    "specificity": {"class_specificity": "specificity"},
    "grid": {"energy": "grid"},
    # Not AUPRC, in which a map without any order is as good as many.
    "rationales": {
        "f1/macro_f1": f"F1, {WORDS[0]} words",
        "faithfulness/comprehensiveness": "comprehensiveness",
    },
    "sanity": {"cascade/mean": "sanity"},
}


class Evaluation:
    """The scores of one folder.

    Attributes:
        data: the name of what was explained.
        protocol: that scored it.
        samples: how many.
        reference: the method that others are compared with.
        scores: by method, name and place on a curve.
    """

    def __init__(self, folder: Path) -> None:
        content = json.loads((folder / "scores.json").read_text())
        self.data, self.protocol = folder.name.rsplit("-", 1)
        self.samples, self.reference = content["samples"], content["compared_with"]
        scores = [Score(**score) for score in content["scores"]]
        self.scores = {(score.method, score.name, score.x): score for score in scores}

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(method for method, *_ in self.scores))

    @property
    def columns(self) -> list[Column]:
        known = {(name, x) for _, name, x in self.scores}
        return [
            column
            for column in PROTOCOLS[self.protocol].columns
            if (column.name, column.x) in known and (column.x is None or column.x in WORDS)
        ]

    @property
    def leading(self) -> list[Column]:
        names = LEADING.get(self.protocol, {})
        return [c for c in self.columns if c.name in names and c.x in (None, WORDS[0])]

    def score(self, method: str, column: Column) -> Score | None:
        return self.scores.get((method, column.name, column.x))

    def ranks(self, column: Column) -> dict[str, int]:
        """The place of each method in a column, the best first; baselines of chance among them."""
        scores = [x for x in (self.score(method, column) for method in self.methods) if x]
        good = {x.method: float(BETTER[column.better](torch.tensor(x.value))) for x in scores}
        order = sorted(good, key=good.__getitem__, reverse=True)
        return {method: place for place, method in enumerate(order, 1)}


def print_row(*cells: str) -> None:
    print("|", " | ".join(cells), "|")


def print_table(evaluation: Evaluation) -> None:
    """Methods down, scores across: percent, half of the 95% interval, and the marks of evaluate."""
    print(f"\n{evaluation.data}, {evaluation.protocol}, {evaluation.samples} samples\n")
    columns = evaluation.columns
    print_row("method", *(f"{heading(c)} {ARROWS[c.better]}" for c in columns))
    print_row(*["---"] * (1 + len(columns)))
    for method in evaluation.methods:
        cells = [evaluation.score(method, column) for column in columns]
        print_row(f"`{method}`", *("-" if score is None else cell(score) for score in cells))


def heading(column: Column) -> str:
    return column.heading if column.x is None else f"F1, {column.x} words"


def cell(score: Score) -> str:
    mark = ("\\*" if score.differs else "") + MARKS.get(score.standing, "")
    number = f"{percent(score.value)} ±{percent((score.high - score.low) / 2)}{mark}"
    return f"**{number}**" if score.standing == BEST else number


def print_differences(evaluations: Sequence[Evaluation]) -> None:
    """How far methods are ahead of the one compared with, and the interval; bold: clear of 0."""
    print("\nPoints ahead of the method compared with\n")
    places = [(x, column) for x in evaluations for column in x.leading]
    print_row("method", *(f"{x.data}, {LEADING[x.protocol][c.name]}" for x, c in places))
    print_row(*["---"] * (1 + len(places)))
    for method in scored_methods():
        scores = [x.score(method, column) for x, column in places]
        if any(score is not None and score.difference is not None for score in scores):
            print_row(
                f"`{method}`",
                *(difference(s, c.better) for s, (_, c) in zip(scores, places, strict=True)),
            )


def difference(score: Score | None, better: str) -> str:
    if score is None or score.difference is None:
        return "-"
    ends = [score.difference, score.difference_low, score.difference_high]
    if better == "lower":
        ends = [-ends[0], -ends[2], -ends[1]]
    value, low, high = (100 * x for x in ends)
    text = f"{value:+.1f} [{low:.1f}, {high:.1f}]"
    return f"**{text}**" if score.differs else text


def draw(evaluations: Sequence[Evaluation], path: Path) -> None:
    """Ranks, methods down and scores across; the best mean rank on top.

    A dot marks the best of a column, a ring what is not clearly worse.
    """
    places = [(x, column) for x in evaluations for column in x.leading]
    found = [evaluation.ranks(column) for evaluation, column in places]
    methods = [m for m, record in scored_methods().items() if any(m in ranks for ranks in found)]
    # As shares of the methods that a column has, for columns have more of them or fewer.
    shares = np.array(
        [[(r[m] - 1) / (len(r) - 1) if m in r else np.nan for r in found] for m in methods]
    )
    order = np.argsort(np.nanmean(shares, axis=1))
    shares, methods = shares[order], [methods[i] for i in order]
    size = (3 + 0.62 * len(places), 1.9 + 0.27 * len(methods))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.imshow(shares, cmap="RdYlGn_r", aspect="auto", alpha=0.75)
    for row, method in enumerate(methods):
        for at, ((evaluation, column), ranks) in enumerate(zip(places, found, strict=True)):
            if method in ranks:
                standing = evaluation.score(method, column).standing
                text = f"{ranks[method]}{MARKS.get(standing, '')}"
                weight = "bold" if standing in (BEST, NOT_WORSE) else "normal"
                axes.text(at, row, text, ha="center", va="center", fontsize=8, weight=weight)
    axes.set_yticks(range(len(methods)), methods, fontsize=8)
    for label, method in zip(axes.get_yticklabels(), methods, strict=True):
        if method in CHANCE or scored_methods()[method].ablation:
            label.set(style="italic", color="#666666")
    headings = [f"{x.data}: {LEADING[x.protocol][c.name]}" for x, c in places]
    axes.set_xticks(range(len(places)), headings, rotation=40, ha="left", fontsize=8)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axes.set_xlabel(f"rank; {MARKS[BEST]} best, {MARKS[NOT_WORSE]} not clearly worse", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = Parser("python -m benchmarks.results", __doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    folders = sorted(path.parent for path in args.folder.glob("*/scores.json"))
    order = list(PROTOCOLS)
    evaluations = [Evaluation(folder) for folder in folders]
    evaluations.sort(key=lambda x: (x.data, order.index(x.protocol)))
    for evaluation in evaluations:
        print_table(evaluation)
    print_differences(evaluations)
    if args.picture:
        draw(evaluations, args.picture)


if __name__ == "__main__":
    main()
