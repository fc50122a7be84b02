"""Tables of texts, as people and their programs write them."""

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch

from lightning_modules.data import TextTableDataModule
from lightning_modules.utils.errors import InputError
from tests.helpers.samples import item, message_of

GOOD = {
    "csv": 'label,note,text,why\npos,1,"good, ""very""\nfilm","[[0, 4]]"\nneg,2,bad film,\n',
    "tsv": "label\ttext\twhy\npos\tgood film\t[[0, 4]]\nneg\tbad film\t[]\n",
    "jsonl": '{"text": "good film", "label": "pos", "why": [[0, 4]]}\n\n'
    '{"text": "bad film", "label": "neg", "why": null}\n',
}


def table(tmp_path: Path, val: str | bytes, ending: str, **options) -> TextTableDataModule:
    """A good training set, and `val` for val."""
    (tmp_path / "train.csv").write_text(GOOD["csv"], encoding="utf-8")
    path = tmp_path / f"val.{ending}"
    path.write_bytes(val if isinstance(val, bytes) else val.encode())
    return TextTableDataModule(str(tmp_path / "train.csv"), str(path), **options)


@pytest.mark.parametrize("ending", GOOD)
def test_a_table(tmp_path, ending):
    data = table(tmp_path, GOOD[ending], ending, rationale_column="why")
    assert data.class_names == ["neg", "pos"]
    good, bad = data.val_dataset.items
    assert good["label"] == 1 and bad["label"] == 0
    assert good["text"] == ('good, "very"\nfilm' if ending == "csv" else "good film")
    assert good["rationale"] == [(0, 4)]
    assert bad == item("bad film", 0, [] if ending == "tsv" else None)
    assert data.test_dataset is data.val_dataset and data.contrast_dataset is None
    assert data.collate([good, good])["rationale"][:, 0].all()


def test_a_table_without_rationales_and_with_a_test_set(tmp_path):
    test = tmp_path / "test.TSV"
    test.write_bytes("\ufeffa\tb\r\n7\tx\r\n".encode())  # as Excel has it
    train = tmp_path / "train.jsonl"
    train.write_text('{"a": 7, "b": "y z"}\n{"a": "8", "b": "z"}')
    data = TextTableDataModule(
        str(train), str(train), str(test), text_column="b", label_column="a", vocab_size=50
    )
    assert data.class_names == ["7", "8"]
    assert data.test_dataset.items == [item("x", 0)]
    assert [len(split) for split in (data.train_dataset, data.test_dataset)] == [2, 1]


@pytest.mark.parametrize(
    ("ending", "val", "told"),
    [
        ("csv", "", "empty; accepted: a .csv"),
        ("csv", " \n\n", "empty; accepted"),
        ("csv", "text,label,why\n", "no rows; accepted"),
        ("jsonl", "", "empty; accepted"),
        ("csv", "text,Label,why\na,pos,\n", "line 2: no column 'label'; .* text, Label, why"),
        ("jsonl", '{"text": "a", "label": "pos"}', "line 1: no column 'why'; .* text, label"),
        ("csv", "text,label,why\na,pos,\nb,good,\n", "line 3: unknown label 'good'; .* neg, pos"),
        ("csv", "text,label,why\n  ,pos,\n", "line 2: text is '  '; accepted"),
        ("jsonl", '\n{"text": 3, "label": "pos", "why": []}', "line 2: text is 3; accepted"),
        ("jsonl", '{"text": "a", "label": null, "why": []}', "line 1: label is None; accepted"),
        ("csv", "text,label,why\na,,\n", "line 2: label is ''; accepted"),
        ("csv", "text,label,why\na, b,pos,\n", "line 2: 4 fields where the header has 3; accepted"),
        ("csv", 'text,label,why\n"a"b,pos,\n', "line 2: .* accepted"),
        ("csv", 'text,label,why\n"a,pos,\n', "line 2: unexpected end of data; accepted"),
        ("csv", b"text,label,why\na,pos,\n\xe9,pos,\n", "line 3: byte 0xe9; accepted: UTF-8"),
        ("jsonl", b'{"text": "\xff"}', "line 1: byte 0xff; accepted: UTF-8"),
        ("jsonl", '{"text": "a"\n', "line 1: malformed JSON .* accepted"),
        ("jsonl", "[" * 100_000, "line 1: malformed JSON .* accepted"),
        ("jsonl", '["a"]', "line 1: no JSON object; accepted"),
        ("csv", "text,label,why\na,pos,[0]\n", r"line 2: why is '\[0\]'; accepted: .* <= 1 "),
        ("csv", "text,label,why\na,pos,oops\n", "line 2: why is 'oops'; accepted"),
        ("csv", "text,label,why\na,pos,7\n", "line 2: why is '7'; accepted"),
        ("csv", "text,label,why,label\na,pos,,neg\n", "line 1: 2 columns are named 'label'; acc"),
        ("tsv", "label\ttext\twhy\t text\npos\ta\t\tb\n", "line 1: 2 columns are named 'text'"),
        (
            "csv",
            "text,note,why,label,note\na,1,,pos,2\n",
            "line 1: 2 columns are named 'note'; acc",
        ),
        ("jsonl", '{"text": "a", "why": [], "label": "pos", "label": "neg"}', "'label' twice"),
        ("csv", "text;label;why\na;pos;\n", "line 2: no column 'text'; .* text;label;why"),
        ("csv", "text;label;why\na, b;pos;\n", "line 2: 2 fields where .* .with commas"),
        (
            "csv",
            "text,label,why\na,3.8,\n",
            "line 2: label is '3.8', .* fraction, .* regression; a",
        ),
        ("csv", "text,label,why\na,nan,\n", "line 2: label is 'nan', .* missing value; accepted"),
        (
            "jsonl",
            '{"text": "a", "label": 0.5, "why": []}',
            "line 1: label is 0.5, .* regression; a",
        ),
        ("jsonl", '{"text": "a", "label": NaN, "why": []}', "line 1: label is nan; accepted"),
        ("jsonl", '{"text": "a", "label": true, "why": []}', "line 1: label is True; accepted"),
        ("csv", 'text,label,why\na, "pos",\n', "line 2: label is ' \"pos\"'; .* without quotation"),
        ("tsv", 'text\tlabel\twhy\na\t"pos"\t\n', "line 2: label is '\"pos\"'; accepted"),
        (
            "tsv",
            '"text"\t"label"\t"why"\n"a"\t"pos"\t""\n',
            "line 2: no column 'text'; .* \"text\"",
        ),
        ("tsv", 'text\tlabel\twhy\n"a\nb"\tpos\t\n', "line 2: 1 fields where the header has 3; a"),
        *(
            ("jsonl", json.dumps({"text": "abc", "label": "pos", "why": why}), "line 1: why is ")
            for why in ([[0, 4]], [[-1, 2]], [[2, 2]], [[0, 1.5]], [[0, True]], [["0", "1"]], 5)
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_told_in_one_line(tmp_path, ending, val, told):
    with pytest.raises(InputError, match=rf"val\.{ending}.*{told}") as error:
        table(tmp_path, val, ending, rationale_column="why")
    assert "\n" not in str(error.value) and "accepted: " in str(error.value)


LONG = "word " * 30_000  # more characters than csv reads in a field, of itself


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_a_text_may_be_of_any_length(tmp_path, ending):
    limit = csv.field_size_limit()
    content = {
        "csv": f'text,label\n"{LONG}",pos\nshort,neg\n',
        "tsv": f"text\tlabel\n{LONG}\tpos\nshort\tneg\n",
        "jsonl": json.dumps({"text": LONG, "label": "pos"}) + '\n{"text": "short", "label": "neg"}',
    }
    data = table(tmp_path, content[ending], ending)
    assert [entry["text"] for entry in data.val_dataset.items] == [LONG, "short"]
    assert csv.field_size_limit() == limit
    with pytest.raises(InputError):
        table(tmp_path, 'text,label\n"a', "csv")
    assert csv.field_size_limit() == limit  # everybody's, also after an error


def test_in_a_tsv_file_quotation_marks_are_text(tmp_path):
    """As GLUE's: a line a text, whatever its quotation marks; what is around a field stays, too."""
    texts = ['"I loved it', 'It was bad"', 'a "good" film', '"all of it"', '""', '"']
    rows = "".join(
        f"{text}\t{label}\n" for text, label in zip(texts, ["pos", "neg"] * 3, strict=True)
    )
    data = table(tmp_path, "text\tlabel\n" + rows, "tsv")
    assert [entry["text"] for entry in data.val_dataset.items] == texts
    assert [entry["label"] for entry in data.val_dataset.items] == [1, 0] * 3


@pytest.mark.parametrize(
    "val",
    [
        "\ufeff text , label\ngood, pos \nbad,\tneg\n",
        "\r\ntext,label\r\n\r\ngood,pos\r\nbad,neg\r\n\r\n",
        ",text,label,\n0,good,pos,\n1,bad,neg,\n",
    ],
    ids=["spaces and byte order mark", "blank lines", "columns without a name"],
)
def test_what_stands_around_names_and_labels_does_not_count(tmp_path, val):
    data = table(tmp_path, val, "csv")
    assert [(entry["text"], entry["label"]) for entry in data.val_dataset.items] == [
        *(("good", 1), ("bad", 0)),
    ]
    spaced = table(tmp_path, val, "csv", text_column=" text ", label_column=" label")
    assert spaced.val_dataset.items == data.val_dataset.items


def test_a_text_is_not_its_own_label(tmp_path):
    with pytest.raises(ValueError, match='label_column: "text" .*: another column than text'):
        table(tmp_path, GOOD["csv"], "csv", label_column="text")


def test_whole_numbers_are_one_class_in_every_file(tmp_path):
    """pandas writes 1 as 1.0 in a column with a gap; JSON has numbers."""
    train = tmp_path / "train.csv"
    train.write_text("text,label\na,1\nb,0\nc,1.0\nd,0.0\n")
    val = tmp_path / "val.jsonl"
    val.write_text(
        "".join(f'{{"text": "a", "label": {label}}}\n' for label in ("1", "1.0", '"0."'))
    )
    test = tmp_path / "test.tsv"
    test.write_text("text\tlabel\na\t0.00\nb\t 1 \n")
    data = TextTableDataModule(str(train), str(val), str(test), vocab_size=50)
    assert data.class_names == ["0", "1"]
    splits = (data.train_dataset, data.val_dataset, data.test_dataset)
    labels = [[entry["label"] for entry in split.items] for split in splits]
    assert labels == [[1, 0, 1, 0], [1, 1, 0], [0, 1]]


def parquet(path: Path, **columns) -> str:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return str(path)


def test_a_parquet_table_is_that_of_its_rows_as_json(tmp_path):
    columns = {
        "text": ["good film", "bad film", "no film"],
        "label": [1, 0, 1],
        "why": [[[0, 4]], None, []],
        "of no use": [b"\xff", None, b""],
    }
    rows = [
        {"text": t, "label": x, "why": w}
        for t, x, w in zip(*list(columns.values())[:3], strict=True)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path, lines = parquet(tmp_path / "a.parquet", **columns), str(tmp_path / "a.jsonl")
    found, expected = (
        TextTableDataModule(x, x, rationale_column="why", vocab_size=50) for x in (path, lines)
    )
    assert found.train_dataset.items == expected.train_dataset.items
    assert found.train_dataset.items[0] == item("good film", 1, [(0, 4)])
    truths = parquet(tmp_path / "b.parquet", text=["a", "b"], label=[True, False])
    assert TextTableDataModule(truths, truths, vocab_size=50).class_names == ["False", "True"]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"text": ["a"], "y": [1]}, "row 1: no column 'label'; accepted: one of text, y"),
        ({"text": ["a", None], "label": [1, 1]}, "row 2: text is None; accepted: a text"),
        ({"text": [1], "label": [1]}, "row 1: text is 1; accepted: a text"),
        ({"text": ["a", "b"], "label": [1, None]}, "row 2: label is None; accepted"),
        ({"text": ["a"], "label": [0.5]}, "row 1: label is 0.5, a number with a fraction"),
        ({"text": pyarrow.array([], "string"), "label": pyarrow.array([], "int8")}, "no rows"),
    ],
)
def test_what_is_wrong_with_a_parquet_table_is_told_with_its_row(tmp_path, columns, told):
    path = parquet(tmp_path / "a.parquet", **columns)
    with pytest.raises(InputError) as raises:
        TextTableDataModule(path, path)
    message_of(raises, path, told)


def test_a_parquet_file_that_is_none(tmp_path):
    path = tmp_path / "a.parquet"
    with pytest.raises(FileNotFoundError, match="no such file; accepted: .* or a .parquet file"):
        TextTableDataModule(str(path), str(path))
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError) as raises:
        TextTableDataModule(str(path), str(path))
    message_of(raises, path, "a .parquet file")
    two = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, ["text", "label", "text"])
    pyarrow.parquet.write_table(two, path)
    with pytest.raises(InputError) as raises:
        TextTableDataModule(str(path), str(path))
    message_of(raises, path, "2 columns are named 'text'")


def test_files_that_are_no_table(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.csv: no such file; accepted: a .csv"):
        TextTableDataModule(str(tmp_path / "nowhere.csv"), str(tmp_path / "nowhere.csv"))
    with pytest.raises(ValueError, match='val: ".*" is not accepted; accepted: .* .jsonl'):
        table(tmp_path, GOOD["csv"], "xlsx")


# -------------------------------------------------------------------------- labels and numbers


def same(tmp_path: Path, content: str, ending: str, **options) -> TextTableDataModule:
    """One file for train and val."""
    path = tmp_path / f"it.{ending}"
    path.write_text(content)
    return TextTableDataModule(str(path), str(path), **options)


@pytest.mark.parametrize(
    ("content", "ending", "options"),
    [
        ("text,label\na,y|x\nb,\n", "csv", {}),
        ("text;label\na;y x\nb;\n".replace(";", "\t"), "tsv", {"label_separator": " "}),
        ('text,label\na,"[""y"", ""x""]"\nb,[]\n', "csv", {}),
        ('{"text": "a", "label": ["y", "x"]}\n{"text": "b", "label": []}\n', "jsonl", {}),
        ("text,x,y\na,1,1\nb,0,0\n", "csv", {"label_column": ["x", "y"]}),
    ],
)
def test_several_labels_a_text(tmp_path, content, ending, options):
    data = same(tmp_path, content, ending, task="multilabel", **options)
    assert data.class_names == ["x", "y"]
    labels = data.collate([data.train_dataset[0], data.train_dataset[1]])["label"]
    assert labels.dtype == torch.float32 and labels.tolist() == [[1, 1], [0, 0]]
    assert data.train_labels("data.sampler").tolist() == [[1, 1], [0, 0]]


def test_numbers_of_pairs_and_of_parquet_files(tmp_path):
    content = "premise,text,score\nit is,it was,0.5\nso,no,2\n"
    options = {"pair_column": "premise", "label_column": "score", "task": "regression"}
    data = same(tmp_path, content, "csv", **options)
    assert data.class_names == ["score"] and data.train_dataset[1]["label"] == [2.0]
    assert "second" in data.train_dataset[0]
    path = parquet(tmp_path / "a.parquet", text=["a", "b"], y=[1, 2], x=[0.5, -1.0])
    data = TextTableDataModule(path, path, label_column=["x", "y"], task="regression")
    assert [x["label"] for x in data.val_dataset.items] == [[0.5, 1.0], [-1.0, 2.0]]
    path = parquet(
        tmp_path / "a.parquet", text=["a", "b"], y=[["q", "p"], []], x=[True, False], z=[0, 1]
    )
    data = TextTableDataModule(path, path, label_column="y", task="multilabel")
    assert [x["label"] for x in data.val_dataset.items] == [[1.0, 1.0], [0.0, 0.0]]
    data = TextTableDataModule(path, path, label_column=["x", "z"], task="multilabel")
    assert [x["label"] for x in data.val_dataset.items] == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"task": "regression", "label_column": ["a", "text"]}, "another column than text_column"),
        ({"task": "multilabel", "rationale_column": "why"}, "rationale_column: .* null with sever"),
        ({"label_column": ["a", "b"]}, "accepted: one column with the task multiclass"),
    ],
)
def test_columns_that_do_not_go_together(tmp_path, options, told):
    with pytest.raises(ValueError, match=told):
        same(tmp_path, "text,a,b,why\nx,0,1,\n", "csv", **options)
