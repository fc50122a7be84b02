"""Which labels of a table are one class, and which are no class."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules.data.labels.names import name_classes, number_labels, read_label
from lightning_modules.utils.errors import InputError
from tests.helpers.samples import message_of


def rows(*labels: str) -> list[tuple[str, dict]]:
    return [(f"a.csv, line {line}", {"label": label}) for line, label in enumerate(labels, start=2)]


@pytest.mark.parametrize(
    ("value", "label"),
    [
        *(("pos", "pos"), (" pos\t", "pos"), ("very good", "very good"), ("Pos", "Pos")),
        *((1, "1"), (-1, "-1"), (1.0, "1.0"), ("1.0", "1.0"), ("+1", "+1"), ("007", "007")),
        *(("none", "none"), ("null", "null"), ("NA", "NA"), ("True", "True"), ("1,500", "1,500")),
        *(("1e3", "1e3"), ("1.000000e+00", "1.000000e+00"), ("2.5.1", "2.5.1"), ('6"', '6"')),
        *(
            ("9" * 5000, "9" * 5000),
            ("1e9999", "1e9999"),
            ("\u00e9", "\u00e9"),
            ("\U0001f600", "\U0001f600"),
            ("3+", "3+"),
            ("v1.5", "v1.5"),
        ),
    ],
)
def test_a_label_is_its_text_without_the_space_around_it(value, label):
    assert read_label(value, "a.csv, line 2: label") == label


@pytest.mark.parametrize(
    "value", ["3.8", ".5", "-0.5", "3,8", "1e-05", "2.5e+00", 0.5, 1e-5, "1.01"]
)
def test_a_number_with_a_fraction_is_no_class(value):
    with pytest.raises(InputError) as raises:
        read_label(value, "a.csv, line 2: label")
    message_of(raises, f"a.csv, line 2: label is {value!r}", "regression")


@pytest.mark.parametrize(
    "value",
    ["", "  ", None, True, [1], {}, float("nan"), float("inf"), "nan", "NaN", '"pos"', '""'],
)
def test_what_is_no_label_is_told(value):
    with pytest.raises(InputError) as raises:
        read_label(value, "a.csv, line 2: label")
    message_of(raises, f"a.csv, line 2: label is {value!r}", "a name or a whole number")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "B", "b"], ["B", "a", "b"]),
        (["1", "0", "1.0", "0.0"], ["0", "1"]),
        (["1.0", "1.", "0.00", "0.0"], ["0.0", "1."]),
        (["0.0", "1.0"], ["0.0", "1.0"]),  # as runs of before have named them
        (["10", "9", "2"], ["10", "2", "9"]),
        (["-1", "1", "-1.0"], ["-1", "1"]),
        (["007", "8"], ["007", "8"]),
        (["a  b", "a b"], ["a  b", "a b"]),
    ],
)
def test_the_classes_of_labels(labels, names):
    assert name_classes(rows(*labels)) == names


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *(("1", "01"), ("01", "1.0"), ("+1", "1"), ("0", "-0"), ("-0.0", "0.0"), ("1e0", "1")),
        *(("1000", "1e3"), ("1", "\u0661"), ("0", ".0"), ("caf\u00e9", "cafe\u0301")),
    ],
)
def test_two_spellings_of_which_it_is_not_known_whether_they_are_one_class(first, second):
    with pytest.raises(InputError) as raises:
        name_classes(rows("b", first, second))
    message_of(raises, f"a.csv, line 4: label {second!r}, and {first!r} in a.csv, line 3")


def test_labels_of_another_split_are_those_of_train_however_they_write_a_whole_number():
    items = number_labels(rows("1", "0.0", "1.00", "b"), ["0.0", "1", "b"])
    assert [item["label"] for item in items] == [1, 0, 1, 2]
    for label in ("2", "01", "B", "1e0"):
        with pytest.raises(InputError) as raises:
            number_labels(rows(label), ["0.0", "1", "b"])
        message_of(raises, f"a.csv, line 2: unknown label {label!r}", "0.0, 1, b")


def value_of(label: str) -> Fraction | None:
    """Of a number, told by trying."""
    try:
        return Fraction(label)
    except ValueError:
        return None


@settings(max_examples=1000, derandomize=True)
@given(st.lists(st.text("01.-+e", min_size=1, max_size=5), min_size=1, max_size=6))
def test_no_two_classes_are_one_number_and_no_class_is_a_fraction(labels):
    try:
        read = [read_label(label, "here") for label in labels]
        names = name_classes(rows(*read))
    except InputError:
        return
    values = [value for value in map(value_of, names) if value is not None]
    assert all(value.denominator == 1 for value in values)
    assert len(values) == len({*values})
    items = number_labels(rows(*read), names)
    for label, item in zip(read, items, strict=True):
        assert value_of(label) == value_of(names[item["label"]])
