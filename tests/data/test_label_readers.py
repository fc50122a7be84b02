"""What tables, objects and data sets say of labels: one, several, or numbers."""

from decimal import Decimal

import numpy as np
import pytest

from lightning_modules.data.labels import label_reader
from lightning_modules.data.splits import split_off
from lightning_modules.utils.errors import InputError
from tests.helpers.samples import message_of


def read(reader, *values):
    """Class names and labels of rows, the values of one column or of several."""
    rows = []
    for number, value in enumerate(values, start=2):
        several = value if isinstance(value, tuple) else (value,)
        row, where = dict(zip(reader.columns, several, strict=True)), f"a.csv, line {number}"
        rows.append((where, {"label": reader.read(row, where)}))
    names = reader.class_names(rows)
    return names, [item["label"] for item in reader.labelled(rows, names)]


@pytest.mark.parametrize(
    "values",
    [
        ("b| a", "", "a"),
        (["b", "a"], [], ["a"]),
        ('["b", "a"]', "[]", '["a"]'),
        ("a|b|a", [], "a"),
    ],
    ids=["separator", "lists", "JSON in a text", "a label twice"],
)
def test_labels_as_people_write_them(values):
    names, labels = read(label_reader("multilabel", "y", "|"), *values)
    assert names == ["a", "b"] and labels == [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]


def test_labels_that_are_numbers_are_in_their_order():
    assert read(label_reader("multilabel", "y", ";"), "10;9", [2, 9.0])[0] == ["2", "9", "10"]


def test_a_column_a_label():
    values = [("1", 0), (True, "False"), (0.0, "1.0"), ("0", "0")]
    names, labels = read(label_reader("multilabel", ["wet", "dry"], "|"), *values)
    assert names == ["wet", "dry"]  # in the order that was given
    assert labels == [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]


def test_a_column_a_number():
    values = [("1.5", 2), (" -3e-2 ", Decimal("0.25"))]
    names, labels = read(label_reader("regression", ["x", "y"], "|"), *values)
    assert names == ["x", "y"] and labels == [[1.5, 2.0], [-0.03, 0.25]]
    assert read(label_reader("regression", "x", "|"), 7) == (["x"], [[7.0]])


@pytest.mark.parametrize(
    ("task", "columns", "value", "told"),
    [
        ("multilabel", "y", None, "y is None; accepted: a list of labels"),
        ("multilabel", "y", 3, "y is 3; accepted: a list of labels"),
        ("multilabel", "y", "a||b", "y is ''; accepted: a name"),
        ("multilabel", "y", ["a", None], "y is None; accepted: a name"),
        ("multilabel", "y", ["a", 0.5], "y is 0.5, a number with a fraction"),
        ("multilabel", "y", "[a", "y is malformed JSON"),
        ("multilabel", ["y", "z"], ("2", 0), "y is '2'; accepted: 0 or 1"),
        ("multilabel", ["z", "y"], (1, None), "y is None; accepted: 0 or 1"),
        ("regression", "y", "", "y is ''; accepted: a finite number"),
        ("regression", "y", None, "y is None; accepted: a finite number"),
        ("regression", "y", "1,5", "y is '1,5'; accepted: a finite number"),
        ("regression", "y", "1_000", "y is '1_000'; accepted: a finite number"),
        ("regression", "y", "nan", "y is 'nan'; accepted: a finite number"),
        ("regression", "y", float("inf"), "y is inf; accepted: a finite number"),
        ("regression", "y", 1e39, "y is 1e+39; accepted: a finite number"),
        ("regression", "y", True, "y is True; accepted: a finite number"),
    ],
)
def test_what_is_no_label_is_told_with_its_line(task, columns, value, told):
    with pytest.raises(InputError) as raises:
        read(label_reader(task, columns, "|"), value)
    message_of(raises, f"a.csv, line 2: {told}")


def test_labels_that_nobody_has_or_train_lacks():
    reader = label_reader("multilabel", "y", "|")
    with pytest.raises(InputError) as raises:
        read(reader, "", [])
    message_of(raises, "a.csv, line 2: y of all 2 rows is without a label")
    with pytest.raises(InputError) as raises:
        read(reader, "", "a")
    message_of(raises, "a.csv, line 3: 'a' is the only label; accepted: two or more in train")
    with pytest.raises(InputError) as raises:
        reader.labelled([("b.csv, line 5", {"label": ["a", "c"]})], ["a", "b"])
    message_of(raises, "b.csv, line 5: unknown label 'c'; accepted: the labels of train, a, b")


@pytest.mark.parametrize(
    ("task", "columns", "separator", "told"),
    [
        ("multiclass", ["a", "b"], "|", "accepted: one column with the task multiclass"),
        ("multilabel", ["a", "a"], "|", "accepted: columns, each once"),
        ("regression", [], "|", "accepted: columns, each once"),
        ("multilabel", ["a"], "|", "accepted: two columns or more, or the name of one with lists"),
        ("multilabel", "a", "", "label_separator: "),
    ],
)
def test_columns_that_do_not_go_with_a_task(task, columns, separator, told):
    with pytest.raises(ValueError, match=told):
        label_reader(task, columns, separator)


# ------------------------------------------------------------------------------- a fifth for val


def test_a_fifth_of_several_labels_has_a_fifth_of_each_and_leaves_the_rare_ones_in_train(capsys):
    rng = np.random.default_rng(3)
    labels = (rng.random((300, 4)) < [0.5, 0.3, 0.1, 0.0]).astype(float)
    labels[:2, 3] = 1
    train, val = split_off(labels.tolist(), 0, "it", "multilabel")
    assert sorted(train + val) == list(range(300)) and len(val) == 60
    np.testing.assert_allclose(labels[val].sum(0), labels.sum(0) / 5, atol=1)
    assert labels[val, 3].sum() == 0
    assert (train, val) == split_off(labels.tolist(), 0, "it", "multilabel")
    assert val != split_off(labels.tolist(), 1, "it", "multilabel")[1]
    assert "it: no validation split, so 60 samples of train serve as val" in capsys.readouterr().err


def test_a_fifth_of_numbers_is_a_random_one():
    train, val = split_off([[x / 7] for x in range(50)], 0, "it", "regression")
    assert sorted(train + val) == list(range(50)) and len(val) == 10
    assert val != split_off([[x / 7] for x in range(50)], 1, "it", "regression")[1]


@pytest.mark.parametrize(
    ("task", "labels", "told"),
    [
        ("regression", [[0.1]] * 4, "it: there are less than 5 samples, so no part of them can"),
        ("multilabel", np.eye(5).tolist(), "it: no label is in 5 samples, so no part of them can"),
    ],
)
def test_too_few_samples_for_a_fifth(task, labels, told):
    with pytest.raises(InputError) as raises:
        split_off(labels, 0, "it", task)
    message_of(raises, told, "accepted: data.val=, or more samples")
