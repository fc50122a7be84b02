"""Readers of labels: of one class, several labels or numbers, from the columns of any table."""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from lightning_modules.data.labels.names import by_value, name_classes, number_labels, read_label
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import check_option

Label = int | list[float]  # of a sample, as DataModule has it
Rows = list[tuple[str, dict]]  # (file and line it is from, item) of each
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
LARGEST = float(np.finfo(np.float32).max)
ZERO_OR_ONE = {"0": 0.0, "0.0": 0.0, "false": 0.0, "1": 1.0, "1.0": 1.0, "true": 1.0}


class LabelReader(ABC):
    """Reads the labels of rows, which are of a table, a JSON object or a data set.

    Args:
        columns: names of what holds them in a row.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = list(columns)

    def read(self, row: Mapping[str, Any], where: str) -> Any:
        """What a row says of its label, before the names of all classes are known.

        Args:
            row: with all ``columns``.
            where: file and line, for errors.

        Raises:
            InputError: it is no label.
        """
        (column,) = self.columns
        return self.value(row[column], f"{where}: {column}")

    @abstractmethod
    def value(self, value: object, where: str) -> Any:
        """As :meth:`read`, of a value that stands alone, of one column."""

    @abstractmethod
    def class_names(self, rows: Rows) -> list[str]:
        """Names of the classes, labels or numbers, in the order of the logits.

        Args:
            rows: of train, with what :meth:`read` gives as ``label``.

        Raises:
            InputError: a label is spelled in two ways; or no row has any.
        """

    @abstractmethod
    def labelled(self, rows: Rows, class_names: Sequence[str]) -> list[dict]:
        """The items of rows with a :data:`Label` each.

        Raises:
            InputError: a label is none of ``class_names``.
        """


class ClassReader(LabelReader):
    """One class, a name or a whole number in one column.

    Args:
        columns: see :class:`LabelReader`.
        by_number: classes that are whole numbers are sorted as numbers, else as texts.
    """

    def __init__(self, columns: Sequence[str], by_number: bool) -> None:
        super().__init__(columns)
        self.by_number = by_number

    def value(self, value: object, where: str) -> str:
        return read_label(value, where)

    def class_names(self, rows: Rows) -> list[str]:
        names = name_classes(rows)
        return by_value(names) if self.by_number else names

    def labelled(self, rows: Rows, class_names: Sequence[str]) -> list[dict]:
        return number_labels(rows, list(class_names))


class ListReader(LabelReader):
    """Labels in one column: a list of them, its JSON, or a text in which a separator parts them.

    Args:
        columns: see :class:`LabelReader`.
        separator: what parts the labels in a text.
    """

    def __init__(self, columns: Sequence[str], separator: str) -> None:
        super().__init__(columns)
        self.separator = separator

    def value(self, value: object, where: str) -> list[str]:
        if isinstance(value, str):
            value = self._parts(value.strip(), where)
        if not isinstance(value, (list, tuple)):
            raise InputError(
                f"{where} is {value!r:.80}; accepted: a list of labels, or a text in which "
                f"{self.separator!r} parts them; without any label [] or an empty text"
            )
        return [read_label(label, where) for label in value]

    def _parts(self, text: str, where: str) -> list:
        if text.startswith("["):
            try:
                return json.loads(text)
            except (ValueError, RecursionError) as error:
                problem = f"is malformed JSON ({error})"
                raise InputError(f"{where} {problem}; accepted: a list of labels") from None
        return text.split(self.separator) if text else []

    def class_names(self, rows: Rows) -> list[str]:
        several = [(where, {"label": label}) for where, item in rows for label in item["label"]]
        if not several:
            (column,) = self.columns
            problem = f"{column} of all {len(rows)} rows is without a label"
            raise InputError(f"{rows[0][0]}: {problem}; accepted: rows of train with labels")
        names = by_value(name_classes(several))
        if len(names) < 2:
            (where, _), *_ = several
            raise InputError(
                f"{where}: {names[0]!r} is the only label; accepted: two or more in train, or the "
                "task multiclass with a name for samples with it, and one for those without"
            )
        return names

    def labelled(self, rows: Rows, class_names: Sequence[str]) -> list[dict]:
        several = [(where, {"label": label}) for where, item in rows for label in item["label"]]
        numbers = (item["label"] for item in number_labels(several, list(class_names)))
        items = []
        for _, item in rows:
            there = [0.0] * len(class_names)
            for _ in item["label"]:
                there[next(numbers)] = 1.0
            items.append(item | {"label": there})
        return items


class ColumnReader(LabelReader):
    """A number in each column; the columns name them."""

    def read(self, row: Mapping[str, Any], where: str) -> list[float]:
        return [self.number(row[column], f"{where}: {column}") for column in self.columns]

    def value(self, value: object, where: str) -> list[float]:
        return [self.number(value, where)]

    def class_names(self, rows: Rows) -> list[str]:
        return list(self.columns)

    def labelled(self, rows: Rows, class_names: Sequence[str]) -> list[dict]:
        return [item for _, item in rows]

    @staticmethod
    @abstractmethod
    def number(value: object, where: str) -> float:
        """The number that a column has; an InputError where it is none."""


class FlagReader(ColumnReader):
    """A column of 0 and 1 a label."""

    @staticmethod
    def number(value: object, where: str) -> float:
        found = ZERO_OR_ONE.get(str(value).strip().lower())
        if found is None:
            raise InputError(f"{where} is {value!r:.80}; accepted: 0 or 1, as there are labels")
        return found


class NumberReader(ColumnReader):
    """A column a number, whatever it is."""

    @staticmethod
    def number(value: object, where: str) -> float:
        text = value.strip() if isinstance(value, str) else ""
        if NUMBER.fullmatch(text) or type(value) in (int, float, Decimal):
            number = float(value)
            if math.isfinite(number) and abs(number) <= LARGEST:
                return number
        raise InputError(f"{where} is {value!r:.80}; accepted: a finite number, as 2 or -0.5")


def label_reader(
    task: str,
    column: str | Sequence[str],
    separator: str,
    by_number: bool = True,
    option: str = "label_column",
) -> LabelReader:
    """The reader of a task's labels.

    Args:
        task: its name in ``TASKS``.
        column: of several labels the column that lists them, or several columns of 0 and 1; of
            numbers one column or several; of a class its column.
        separator: what parts labels in a text.
        by_number: see :class:`ClassReader`.
        option: that ``column`` is the value of, for errors.

    Raises:
        ValueError: these do not go together, or a column is named twice.
    """
    single = isinstance(column, str)
    columns = [column] if single else list(column)
    fitting = single or task != "multiclass"
    check_option(option, column, fitting, "one column with the task multiclass")
    unlike = bool(columns) and len(set(columns)) == len(columns)
    check_option(option, column, unlike, "columns, each once")
    enough = single or task != "multilabel" or len(columns) > 1
    check_option(option, column, enough, "two columns or more, or the name of one with lists")
    check_option("label_separator", separator, separator != "", "a text, as | or ;")
    if task == "regression":
        return NumberReader(columns)
    if task == "multilabel":
        return ListReader(columns, separator) if single else FlagReader(columns)
    return ClassReader(columns, by_number)
