"""The labels of the rows of a split, read without the rest of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lightning_modules.data.labels import Label, LabelReader
from lightning_modules.data.labels.names import (
    by_value,
    name_classes,
    number_labels,
    read_label,
)
from lightning_modules.data.labels.readers import ClassReader, ListReader
from lightning_modules.data.rows.splits import Split
from lightning_modules.utils.errors import InputError

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

ACCEPTED = "a label in every row, or another split"


@dataclass(frozen=True)
class ClassLabels:
    """What a column has for labels, of which each row has one.

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


@dataclass(frozen=True)
class ReadLabels:
    """What a reader has read of the rows.

    Attributes:
        rows: (where it is, {"label": what the reader gives}) of every row.
        reader: of the rows.
        names: as of :class:`ClassLabels`.
    """

    rows: list[tuple[str, dict]]
    reader: LabelReader
    names: list[str] | None

    def classes(self) -> list[str]:
        """Names of the labels or numbers: the column's own, or the reader's."""
        return self.names or self.reader.class_names(self.rows)

    def numbers(self, class_names: list[str]) -> list[Label]:
        """The label of every row; an InputError where it is none of ``class_names``."""
        return [item["label"] for item in self.reader.labelled(self.rows, class_names)]


def read_column(dataset: Dataset, column: str) -> pyarrow.ChunkedArray:
    """A column of all rows, mapped into memory."""
    return dataset.select_columns([column]).with_format("arrow")[:].column(column)


def is_unlabelled(split: Split, columns: Sequence[str]) -> bool:
    """True where no row has a label, as in the test splits of GLUE, whose labels are -1."""
    return all(_is_empty(split, column) for column in columns)


def _is_empty(split: Split, column: str) -> bool:
    values = read_column(split.rows, column)
    names = getattr(split.rows.features[column], "names", None)
    if values.null_count == len(values):
        return True
    return names is not None and bool((values.fill_null(-1).to_numpy() < 0).all())


def read_labels(split: Split, reader: LabelReader) -> ClassLabels | ReadLabels:
    """The labels of a split's rows.

    Raises:
        InputError: a row has no label, or one that is none.
    """
    if isinstance(reader, ClassReader):
        return read_classes(split, *reader.columns)
    columns = [read_column(split.rows, column).to_pylist() for column in reader.columns]
    names = None
    if isinstance(reader, ListReader):
        feature = getattr(split.rows.features[reader.columns[0]], "feature", None)
        names = getattr(feature, "names", None)
    rows = []
    for row, values in enumerate(zip(*columns, strict=True)):
        where = f"{split.where}, row {row}"
        if names is not None and values[0] is not None:
            label = [name_of(x, names, f"{where}: {reader.columns[0]}") for x in values[0]]
        else:
            label = reader.read(dict(zip(reader.columns, values, strict=True)), where)
        rows.append((where, {"label": label}))
    return ReadLabels(rows, reader, names)


def name_of(value: int | None, names: Sequence[str], where: str) -> str:
    """The name of a class of a ``datasets.ClassLabel``; an InputError where it is none."""
    if value is None or not 0 <= value < len(names):
        raise InputError(f"{where} is {value}, which is no class; accepted: {ACCEPTED}")
    return names[value]


def read_classes(split: Split, column: str) -> ClassLabels:
    """The labels of rows with one class each.

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
            label = name_of(value, names, f"{place}: {column}")
        else:
            value = str(value) if isinstance(value, bool) else value
            label = read_label(value, f"{place}: {column}")
        found.append((place, {"label": label}))
    return ClassLabels(found, of_row, names)
