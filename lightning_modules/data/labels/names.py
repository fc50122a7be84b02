"""Labels as people write them in tables: which are one class, and which are none."""

import math
import re
import unicodedata
from collections import defaultdict
from decimal import Decimal

from lightning_modules.utils.errors import InputError

ACCEPTED = "a name or a whole number"
NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d{1,3})?")
THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+")
WHOLE = re.compile(r"([+-]?\d+)\.0*")  # as 1.0, which pandas makes of a 1 beside a gap


def read_label(value: object, where: str) -> str:
    """The label that a table has: its text, without the space around it.

    Args:
        value: text; or an integer, or a float without a fraction, as JSON has it.
        where: file, line and column, for errors.

    Raises:
        InputError: it is none of these, or empty, a missing value, a number with a fraction, or in
            quotation marks.
    """
    label = str(value).strip() if type(value) in (str, int, float) else ""
    said = f"{where} is {value!r}"
    if not label or type(value) is float and not math.isfinite(value):
        raise InputError(f"{said}; accepted: {ACCEPTED}")
    if label.lower() == "nan":
        raise InputError(f"{said}, which stands for a missing value; accepted: {ACCEPTED}")
    number = _number(label)
    if number is not None and number != number.to_integral_value():
        raise InputError(
            f"{said}, a number with a fraction, as for a regression; accepted: a class, which is "
            f"{ACCEPTED}"
        )
    if len(label) > 1 and label[0] == label[-1] == '"':
        raise InputError(f"{said}; accepted: {ACCEPTED}, without quotation marks of its own")
    return label


def name_classes(rows: list[tuple[str, dict]]) -> list[str]:
    """Names of the classes of train, sorted: 1 and 1.0 are one, by the shorter name.

    Args:
        rows: (file and line it is from, item whose label is a name).

    Raises:
        InputError: labels that are one number, or look the same, are spelled in other ways, as 1
            and 01.
    """
    spellings = defaultdict(dict)  # of each meaning, the labels and where each occurs first
    for where, item in rows:
        spellings[_meaning(item["label"])].setdefault(item["label"], where)
    for labels in spellings.values():
        first, *others = labels
        for label in others:
            if _whole(label) != _whole(first):
                raise InputError(
                    f"{labels[label]}: label {label!r}, and {first!r} in {labels[first]}; "
                    "accepted: one spelling of a class"
                )
    return sorted(min(labels, key=len) for labels in spellings.values())


def by_value(class_names: list[str]) -> list[str]:
    """Names of classes in the order of their numbers, 2 before 10; as they are if any is none."""
    if all(re.fullmatch(r"[+-]?\d+", _whole(name)) for name in class_names):
        return sorted(class_names, key=lambda name: int(_whole(name)))
    return class_names


def number_labels(rows: list[tuple[str, dict]], class_names: list[str]) -> list[dict]:
    """Items whose label is a number, an index into `class_names`.

    Args:
        rows: see `name_classes`.
        class_names: those of train.

    Raises:
        InputError: a label is none of train's.
    """
    numbers = {_whole(name): number for number, name in enumerate(class_names)}
    for where, item in rows:
        if _whole(item["label"]) not in numbers:
            accepted = "the labels of train, " + ", ".join(class_names)
            raise InputError(f"{where}: unknown label {item['label']!r}; accepted: {accepted}")
    return [item | {"label": numbers[_whole(item["label"])]} for _, item in rows]


def _number(label: str) -> Decimal | None:
    """The value of a number, in which a comma may stand for the point; None of another label."""
    if not NUMBER.fullmatch(label) or THOUSANDS.fullmatch(label):
        return None
    return Decimal(label.replace(",", "."))


def _whole(label: str) -> str:
    """A whole number without a point: 1 for 1.0. Another label as it is."""
    match = WHOLE.fullmatch(label)
    return match[1] if match else label


def _meaning(label: str) -> int | str:
    """What labels have in common that are the same number, or look the same."""
    number = _number(label)
    return unicodedata.normalize("NFC", label) if number is None else int(number)
