"""Scores of methods, and of variants of them, on the data of runs: kept, and put into tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import explain
import relprop
from lightning_modules.protocols import PROTOCOLS
from lightning_modules.protocols.scores import Score

Found = Mapping[str, Sequence[Score]]  # by run


def variant(name: str, of: str, **options) -> None:
    """Register a method with ``options`` of its own under another name."""
    method = relprop.METHODS[of]

    def function(trace, target, given):
        return method.function(trace, target, dataclasses.replace(given, **options))

    function.__qualname__ = name
    record = dataclasses.replace(method, name=name, function=function)
    relprop.METHODS.add(name, record, function)


def scored(
    runs: Mapping[str, Path],
    protocol: str,
    methods: Sequence[str],
    compare: str,
    limit: int,
    output: Path,
) -> dict[str, list[Score]]:
    """The scores of each run by ``explain.py evaluate``, or what an earlier call has found."""
    found = {}
    for name, run in runs.items():
        folder = output / f"{name}-{protocol}"
        if not (folder / "scores.json").is_file():
            asked = ["--checkpoint", str(run), "--protocol", protocol, "--compare", compare]
            asked += ["--limit", str(limit), "--output", str(folder), "--resume"]
            explain.main(["evaluate", *asked, "--method", *methods])
        about = json.loads((folder / "scores.json").read_text())
        if (about["methods"], about["limit"]) != (list(methods), limit):
            raise SystemExit(f"{folder} is of other methods or samples; accepted: another --output")
        found[name] = [Score(**row) for row in about["scores"]]
    return found


def print_table(
    protocol: str, found: Found, compare: str, limit: int, shown: Sequence[str] = ()
) -> None:
    """A row a method and a group of columns a run: percent and half of the 95% interval.

    Behind them the 95% interval of the difference to the method ``compare``, on the same samples;
    ``*`` where it is clear of 0. ``shown``: headings of columns; none: all.
    """
    columns = [c for c in PROTOCOLS[protocol].columns if c.heading in shown or not shown]
    print(f"\n{protocol}: {limit} samples a run, differences to {compare}\n")
    headings = [f"{run}: {column.heading}" for run in found for column in columns]
    print("|", " | ".join(["method", *headings]), "|")
    print("| --- " * (len(headings) + 1) + "|")
    for method in dict.fromkeys(s.method for scores in found.values() for s in scores):
        cells = []
        for scores in found.values():
            of_method = {(s.name, s.x): s for s in scores if s.method == method}
            cells += [cell(of_method.get((c.name, c.x))) for c in columns]
        print("|", " | ".join([f"`{method}`", *cells]), "|")


def cell(score: Score | None) -> str:
    if score is None:
        return "-"
    text = f"{100 * score.value:.1f} ±{50 * (score.high - score.low):.1f}"
    if score.difference is None:
        return text
    ends = f"{100 * score.difference_low:+.1f} to {100 * score.difference_high:+.1f}"
    return f"{text} ({ends}){'*' * score.differs}"
