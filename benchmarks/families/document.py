"""The table of families, in Markdown; what is measured again replaces what stood there."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import timm
import torch
import transformers

from benchmarks.families import ENTRIES, checks

COLUMNS = ("attnlrp", "products", "gradient", "epsilon", "padded")
HEADINGS = {
    "timm": "timm, by module of its registry",
    "text": "Hugging Face: texts",
    "picture": "Hugging Face: pictures",
    "sound": "Hugging Face: sounds",
    "pair": "Hugging Face: texts and pictures together",
}
HEAD = """# Models

`python -m benchmarks.families` writes this page: for each family it builds a small model with
random weights, in float64, and checks what the engine does with it. With `--kinds text`, or with
names (`timm/swin_transformer`), it measures those again and keeps the other rows.

- **attnlrp**: `method="attnlrp"` gives a finite map of every source.
- **products**: so do `transformer_attribution`, `generic_attention` and `rollout`, and the weights
  of `rollout`, and of `raw_attention` where it is not refused, sum to 1 over the sources of a
  sample and the model's own tokens, such as a class token: to 2 where a model has two towers. They
  are *off* where the model pads its tokens, as windows that do not fit need it: a part of the
  weight ends in the padding.
- **gradient**: the walk without corrections against autograd's own input x gradient, which is
  computed without the engine; the largest difference over the largest value, ok to 1e-9.
- **epsilon**: `rules=relprop.rules.epsilon` with `eps=0` sums to the 1 that it starts with, on
  a copy without biases, positions and tokens of its own; ok to 1e-6.
- **padded**: `attnlrp` explains a padded text as the text alone, on each side on which the model
  itself does.
- *refused* is an `UnsupportedModel`, whose words stand in the last column; *off* is a check that
  does not hold; *failed* is any other exception.

A finite map is not yet a good one: the checks say that it is computed as the method says.
"""


def cells(name: str, result: dict[str, checks.Verdict] | str) -> list[str]:
    """The cells of a row. ``result``: verdicts by column, or a sentence where there are none."""
    entry = ENTRIES[name]
    if isinstance(result, str):
        return [entry.name, f"`{entry.model}`", *["failed"] * len(COLUMNS), inline(result)]
    shown = [short(result[column]) if column in result else "" for column in COLUMNS]
    said: dict[str, list[str]] = {}
    for column, verdict in result.items():
        if verdict.outcome in ("refused", "failed") or len(verdict.says) > 8:
            said.setdefault(verdict.says, []).append(column)
    notes = (
        says if len(columns) == len(result) else f"{', '.join(columns)}: {says}"
        for says, columns in said.items()
    )
    return [entry.name, f"`{entry.model}`", *shown, inline("; ".join(notes))]


def short(verdict: checks.Verdict) -> str:
    """One word, and a number where there is one."""
    is_number = verdict.outcome in ("ok", "off") and re.match(r"[\d.]+(e[+-]?\d+)?", verdict.says)
    return f"{verdict.outcome} {is_number[0]}" if is_number else verdict.outcome


def inline(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def row(found: Iterable[str]) -> str:
    return f"| {' | '.join(found)} |"


def read(path: Path) -> dict[str, list[str]]:
    """The rows that stand there, by "kind/name"; none of families that are no longer here."""
    kinds = {heading: kind for kind, heading in HEADINGS.items()}
    kind, rows = None, {}
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("## "):
            kind = kinds.get(line[3:])
        elif kind and line.startswith("| "):
            found = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if f"{kind}/{found[0]}" in ENTRIES:
                rows[f"{kind}/{found[0]}"] = found
    return rows


def write(path: Path, rows: dict[str, list[str]]) -> None:
    """The page, in the order of the entries."""
    versions = f"timm {timm.__version__}, transformers {transformers.__version__}"
    parts = [HEAD, f"Measured with {versions} and torch {torch.__version__.partition('+')[0]}.\n"]
    for kind, heading in HEADINGS.items():
        of_kind = [rows[name] for name, e in ENTRIES.items() if e.kind == kind and name in rows]
        if of_kind:
            head = ("family", "model", *COLUMNS, "in words")
            lines = [row(head), row("---" for _ in head), *map(row, of_kind)]
            parts += [f"## {heading}\n", count(of_kind) + "\n", "\n".join(lines) + "\n"]
    path.write_text("\n".join(parts))


def count(rows: list[list[str]]) -> str:
    """How many models of how many are explained, by column."""
    told = []
    for place, column in enumerate(COLUMNS, start=2):
        found = Counter(cells[place].partition(" ")[0] for cells in rows if cells[place])
        if found:
            told.append(f"{column} {found['ok']}/{found.total()}")
    return f"{len(rows)} models; ok: {', '.join(told)}."
