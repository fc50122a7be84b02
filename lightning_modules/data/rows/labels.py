"""The labels of the rows of a split, read without the rest of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_modules.data.labels.names import (
    by_value,
    name_classes,
    number_labels,
    read_label,
)
from lightning_modules.data.rows.splits import Split
from lightning_modules.utils.errors import InputError

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

ACCEPTED = "a label in every row, or another split"


@dataclass(frozen=True)
class Labels:
    """What a column has for labels.

    Attributes:
        values: (where it is first, {"label": its name}) of every value, as `name_classes` has it.
        of_row: which of them a row has, [rows].
        names: those of the column's own classes, in their order; None where it knows none.
    """

    values: list[tuple[str, dict]]
    of_row: np.ndarray
    names: list[str] | None

    def classes(self) -> list[str]:
        """Names of the classes: the column's own, or those that occur, sorted.

        Raises:
            InputError: see `name_classes`.
        """
        return self.names or by_value(name_classes(self.values))

    def numbers(self, class_names: list[str]) -> list[int]:
        """The label of every row, an index into `class_names`.

        Raises:
            InputError: a label is none of these.
        """
        numbers = [item["label"] for item in number_labels(self.values, class_names)]
        return np.array(numbers)[self.of_row].tolist()


def read_column(dataset: Dataset, column: str) -> pyarrow.ChunkedArray:
    """A column of all rows, mapped into memory."""
    return dataset.select_columns([column]).with_format("arrow")[:].column(column)


def is_unlabelled(split: Split, column: str) -> bool:
    """True where no row has a label, as in the test splits of GLUE, whose labels are -1."""
    values = read_column(split.rows, column)
    names = getattr(split.rows.features[column], "names", None)
    if values.null_count == len(values):
        return True
    return names is not None and bool((values.fill_null(-1).to_numpy() < 0).all())


def read_labels(split: Split, column: str) -> Labels:
    """The labels of a split's rows.

    A ``datasets.ClassLabel`` knows the names of its classes. A string, a whole number or a truth
    value is a name itself.

    Raises:
        InputError: a row has no label, or one that is no class.
    """
    values, where = read_column(split.rows, column), split.where
    if values.null_count:
        row = int(values.is_null().to_numpy().argmax())
        raise InputError(f"{where}, row {row}: {column} is null; accepted: {ACCEPTED}")
    names = getattr(split.rows.features[column], "names", None)
    try:
        encoded = values.combine_chunks().dictionary_encode()
    except NotImplementedError:  # pyarrow's error is one
        raise InputError(
            f"{where}: {column} has values of type {values.type}; accepted: a column of class "
            "labels, strings, whole numbers or truth values"
        ) from None
    of_row = encoded.indices.to_numpy()
    first = np.unique(of_row, return_index=True)[1]
    found = []
    for row, value in zip(first.tolist(), encoded.dictionary.to_pylist(), strict=True):
        place = f"{where}, row {row}"
        if names is not None:
            if not 0 <= value < len(names):
                problem = f"{column} is {value}, which is no class"
                raise InputError(f"{place}: {problem}; accepted: {ACCEPTED}")
            label = names[value]
        else:
            value = str(value) if isinstance(value, bool) else value
            label = read_label(value, f"{place}: {column}")
        found.append((place, {"label": label}))
    return Labels(found, of_row, names)
