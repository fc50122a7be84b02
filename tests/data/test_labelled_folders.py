"""Images beside a table of their labels: several a picture, or numbers."""

import numpy as np
import pytest
import torch

from lightning_modules.data import ImageFolderDataModule
from lightning_modules.tasks import balanced_weights
from lightning_modules.utils.errors import InputError
from tests.helpers.samples import message_of, save

LISTS = "file,labels\na.png,cat|dog\nsub/b.png,dog\nsub/c.png,\n"
FLAGS = "cat,file,dog\n1,a.png,1\n0,sub/b.png,1\n0,./sub/c.png,0\n"
NUMBERS = "file,age,weight\nsub/c.png,3.5,70\na.png,1,20\nsub/b.png,2,-1e1\n"
LINES = (
    '{"file": "a.png", "labels": ["cat", "dog"]}\n{"file": "sub/b.png", "labels": ["dog"]}\n'
    '{"file": "sub/c.png", "labels": []}\n'
)


@pytest.fixture
def root(tmp_path):
    for split in ("train", "val"):
        for place, name in enumerate(("a", "sub/b", "sub/c")):
            pixels = np.full((20, 24, 3), 40 * place, dtype=np.uint8)
            save(tmp_path / split / f"{name}.png", pixels)
    return tmp_path


def folder(root, table: str = LISTS, name: str = "labels.csv", val: str | None = None, **options):
    (root / "train" / name).write_text(table)
    (root / "val" / name).write_text(table if val is None else val)
    options = {"task": "multilabel", "num_workers": 0, "image_size": 32} | options
    return ImageFolderDataModule(str(root), **options)


@pytest.mark.parametrize(
    ("table", "name", "options"),
    [
        (LISTS, "labels.csv", {}),
        (LISTS.replace("|", " / "), "labels.csv", {"label_separator": "/"}),
        (LISTS.replace(",", "\t"), "labels.tsv", {}),
        (LINES, "labels.jsonl", {}),
        (FLAGS, "labels.csv", {}),
        (FLAGS, "mine.csv", {"labels": "mine.csv", "label_column": ["cat", "dog"]}),
        (LISTS.replace("file", "path"), "labels.csv", {"file_column": "path"}),
    ],
)
def test_several_labels_a_picture(root, capsys, table, name, options):
    data = folder(root, table, name, **options)
    assert data.class_names == ["cat", "dog"]
    expected = [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]
    assert data.train_labels("data.sampler").tolist() == expected
    batch = next(iter(data.val_dataloader()))
    assert batch["label"].tolist() == expected and batch["label"].dtype == torch.float32
    assert batch["image"].mean(dim=(1, 2, 3)).argsort().tolist() == [0, 1, 2]  # each with its own
    assert data.train_dataset[0]["label"].tolist() == [1, 1]
    assert "left out" not in capsys.readouterr().err


def test_weights_and_order_are_balanced_by_label(root):
    data = folder(root, LISTS.replace("sub/c.png,", "sub/c.png,cat"), sampler="balanced")
    assert balanced_weights(data.train_labels("data.sampler"), data.class_names) == [0.5, 0.5]
    assert data.sample_weights().tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("options", "names", "expected"),
    [
        ({}, ["age", "weight"], [[1.0, 20.0], [2.0, -10.0], [3.5, 70.0]]),
        ({"label_column": ["weight"]}, ["weight"], [[20.0], [-10.0], [70.0]]),
        ({"label_column": "age"}, ["age"], [[1.0], [2.0], [3.5]]),
    ],
)
def test_numbers_of_pictures(root, options, names, expected):
    data = folder(root, NUMBERS, task="regression", **options)
    assert data.class_names == names
    assert next(iter(data.val_dataloader()))["label"].tolist() == expected


def test_a_table_may_have_one_class_a_picture(root):
    table = "file,kind\na.png,x\nsub/b.png,y\nsub/c.png,x\n"
    data = folder(root, table, task="multiclass", labels="labels.csv")
    assert data.class_names == ["x", "y"] and data.train_labels("data.sampler").tolist() == [
        0,
        1,
        0,
    ]


def test_masks_are_of_the_object_of_a_number_and_of_no_label(root, capsys):
    save(root / "masks" / "val" / "sub" / "b.png", np.full((20, 24), 255, dtype=np.uint8))
    data = folder(root, NUMBERS, task="regression")
    assert [x["has_mask"] for x in data.val_dataset] == [False, True, False]
    capsys.readouterr()
    assert "mask" not in folder(root).val_dataset[0]
    assert f"{root / 'masks'}: left out, for it does not say" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("val", "told"),
    [
        (LISTS.replace("sub/c.png,", "sub/d.png,"), "line 4: file is 'sub/d.png', and no such"),
        (LISTS + "a.png,cat\n", "line 5: 'a.png' is in"),
        ("file,labels\na.png,cat\n", "labels.csv: no row of sub/b.png and 1 more images"),
        (LISTS.replace("cat", "cow"), "line 2: unknown label 'cow'; accepted: the labels of train"),
        (LISTS.replace("file", "path"), "line 2: no column 'file'; accepted: one of path, labels"),
        (LISTS + "../train/a.png,cat\n", "line 5: file is '../train/a.png', and no such image"),
        (LISTS + " ,cat\n", "line 5: file is ' ', and no such image"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_told_with_its_line(root, val, told):
    with pytest.raises(InputError) as raises:
        folder(root, val=val)
    message_of(raises, root / "val", told)


@pytest.mark.parametrize(
    ("table", "options", "told"),
    [
        (NUMBERS.replace("3.5", "old"), {}, "line 2: age is 'old'; accepted: a finite number"),
        (NUMBERS, {"task": "multilabel"}, "line 2: age is '3.5'; accepted: 0 or 1"),
        (NUMBERS, {"label_column": "hair"}, "line 2: no column 'hair'; accepted: one of file, age"),
        ("file\na.png\n", {}, "labels.csv: no column beside 'file'"),
    ],
)
def test_labels_that_a_table_lacks_are_told(root, table, options, told):
    with pytest.raises(InputError) as raises:
        folder(root, table, **{"task": "regression"} | options)
    message_of(raises, root / "train", told)


def test_tables_that_are_missing_or_twice(root):
    with pytest.raises(FileNotFoundError, match=r"train: no labels.csv or .*; accepted: a table"):
        ImageFolderDataModule(str(root), task="multilabel")
    (root / "train" / "labels.jsonl").write_text(LINES)
    with pytest.raises(InputError) as raises:
        folder(root)
    message_of(raises, "labels.csv and ", "labels.jsonl: two tables; accepted: one, or data.labels")
    with pytest.raises(ValueError, match="label_column: .* accepted: another column than file_co"):
        folder(root, labels="labels.csv", label_column="file")
    with pytest.raises(ValueError, match="label_column: .* accepted: null without labels"):
        ImageFolderDataModule(str(root), label_column="kind")
