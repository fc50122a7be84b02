"""Precision, recall and F1 of each class of the test: a table on the screen and in a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text

from lightning_modules.models.classifier import Classifier
from lightning_modules.tasks import rates
from lightning_modules.utils.files import replace_file
from lightning_modules.utils.names import printable

SHOWN = 10  # classes on the screen


@dataclass(frozen=True)
class OfClass:
    """How the decisions for one class of the test have been."""

    name: str
    samples: int
    precision: float  # NaN where none was decided for it
    recall: float  # NaN where there is no sample of it
    f1: float


def classes_of(model: Classifier) -> list[OfClass]:
    """The classes of the test in their order."""
    counts = model.tested.double()
    figures = torch.stack(rates(counts), dim=1).tolist()
    return [
        OfClass(name, int(samples), *of_class)
        for name, samples, of_class in zip(
            model.hparams.class_names, counts[:, -1], figures, strict=True
        )
    ]


def class_table(classes: Sequence[OfClass]) -> Table:
    """The classes with the lowest F1, the lowest first; of those that the test has."""
    lowest = sorted((x for x in classes if x.samples), key=lambda x: x.f1)
    table = Table(box=None, pad_edge=False)
    table.add_column("class", min_width=10)
    for name in ("precision", "recall", "f1", "samples"):
        table.add_column(name, justify="right")
    for x in lowest[:SHOWN]:
        numbers = (f"{value:.3f}" if value == value else "-" for value in (x.precision, x.recall))
        table.add_row(Text(f"{printable(x.name):.60}"), *numbers, f"{x.f1:.3f}", f"{x.samples:,}")
    if len(lowest) > SHOWN:
        table.add_row(f"the lowest {SHOWN} of {len(lowest):,} classes")
    return table


def write_classes(model: Classifier, path: Path) -> None:
    """The figures of all classes as a table, ``classes.csv``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([x.name for x in fields(OfClass)])
    writer.writerows(["" if x != x else x for x in astuple(row)] for row in classes_of(model))
    replace_file(path, lambda file: file.write(text.getvalue().encode()))
