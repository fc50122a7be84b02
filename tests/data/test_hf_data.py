"""Data sets of Hugging Face's datasets: pictures and texts, wherever they are."""

import io
import logging
import sys

import datasets
import numpy as np
import pytest
import torch
from datasets import Array2D, Array3D, ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image

from lightning_modules.data import HFDataModule, ImageFolderDataModule, TextTableDataModule
from lightning_modules.utils.errors import InputError
from tests.helpers.samples import assert_same_batches, batches, item, message_of, save

OPTIONS = {"num_workers": 0, "image_size": 16, "batch_size": 4}
STRUCT = {"bytes": Value("binary"), "path": Value("string")}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """What datasets keeps of parquet files is no test's but this one's."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape or (20, 24, 3), dtype=np.uint8)


def png(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png", **options)
    return file.getvalue()


def saved(tmp_path, name: str = "saved", features: dict | None = None, **splits: dict) -> str:
    """A DatasetDict on disk; splits by name, columns by name."""
    made = {
        split: Dataset.from_dict(columns, Features(features) if features else None)
        for split, columns in splits.items()
    }
    DatasetDict(made).save_to_disk(str(tmp_path / name))
    return str(tmp_path / name)


def hf(path, **options) -> HFDataModule:
    return HFDataModule(str(path), **OPTIONS | options)


def classes(*names: str) -> ClassLabel:
    return ClassLabel(names=list(names))


PICTURES = {"image": [png(pixels(i)) for i in range(10)], "label": [0, 1] * 5}
FEATURES = {"image": datasets.Image(), "label": classes("dog", "cat")}
TEXTS = {"text": [f"{'very ' * (i % 4)}good film {i}" for i in range(12)], "label": ["b", "a"] * 6}


# ------------------------------------------------------------------------------------- pictures


def test_pictures_are_read_as_those_in_folders(tmp_path):
    """Upright, of 8 bits, without alpha: as `read_image` has them, and augmented as there."""
    exif = Image.Exif()
    exif[0x0112] = 6
    arrays = [pixels(0), pixels(1, 20, 24), pixels(2, 20, 24, 4), pixels(3)]
    arrays.append(pixels(4, 20, 24).astype(np.uint16) * 257)
    for place, array in enumerate(arrays):
        path = tmp_path / "folders" / "train" / "cat" / f"{place}.png"
        save(path, Image.fromarray(array), exif=exif if place == 3 else b"")
    save(tmp_path / "folders" / "val" / "cat" / "0.png", arrays[0])
    files = sorted((tmp_path / "folders" / "train" / "cat").iterdir())
    columns = {"image": [str(file) for file in files], "label": [0] * len(files)}
    features = {"image": datasets.Image(), "label": classes("cat")}
    path = saved(tmp_path, train=columns, validation=columns, features=features)
    folders = ImageFolderDataModule(str(tmp_path / "folders"), **OPTIONS)
    data, helped = hf(path), hf(path, num_workers=2)
    loaders = [x.train_dataloader() for x in (folders, data, helped)]
    for epoch in range(2):
        expected = batches(loaders[0], epoch)
        for loader in loaders[1:]:
            assert_same_batches(batches(loader, epoch), expected)
    assert_same_batches([data.val_dataset[0]], [folders.val_dataset[0]])


ARRAYS = [pixels(i) for i in range(6)]
GREYS = [pixels(i, 20, 24) for i in range(6)]


@pytest.mark.parametrize(
    ("column", "feature", "expected"),
    [
        ([png(x) for x in ARRAYS], Value("binary"), ARRAYS),
        ([{"bytes": png(x), "path": None} for x in ARRAYS], STRUCT, ARRAYS),
        ([x.tolist() for x in ARRAYS], Array3D((20, 24, 3), "uint8"), ARRAYS),
        ([x.transpose(2, 0, 1).tolist() for x in ARRAYS], Array3D((3, 20, 24), "int64"), ARRAYS),
        ([x.tolist() for x in ARRAYS], None, ARRAYS),
        ([x.tolist() for x in GREYS], Array2D((20, 24), "uint8"), GREYS),
        ([x[..., None].tolist() for x in GREYS], Array3D((20, 24, 1), "uint8"), GREYS),
    ],
    ids=["bytes", "struct", "HWC", "CHW", "lists", "HW", "HW1"],
)
def test_how_a_picture_may_be_stored(tmp_path, column, feature, expected):
    features = feature and {"image": feature, "label": Value("int64")}
    columns = {"image": column, "label": [0, 1] * 3}
    data = hf(saved(tmp_path, train=columns, val=columns, features=features))
    for row, array in enumerate(expected):
        shown = np.asarray(data.val_dataset.read(row))
        assert (shown == (array if array.ndim == 3 else array[..., None])).all()
        assert shown.shape == (20, 24, 3)


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ([b"no picture"], "image: cannot be read (cannot identify image file); accepted"),
        (["a.png"], "image is of type str; accepted: a picture"),
        ([[[0.5, 1.0]]], "image is an array [1, 2] of float64; accepted"),
        ([[[0, 256]]], "image is an array [1, 2] of int64, 0 to 256; accepted"),
        ([[[1, 2], [3]]], "image is an array [] of object; accepted"),
        ([[[[1] * 5] * 2] * 2], "image is an array [2, 2, 5] of int64; accepted"),
    ],
)
def test_what_is_no_picture(tmp_path, column, told):
    columns = {"image": column, "label": ["a"]}
    with pytest.raises(InputError) as raises:
        hf(saved(tmp_path, train=columns, val=columns))
    message_of(raises, "saved, train, row 0", told)


def test_no_row_is_read_before_its_turn_but_the_first(tmp_path):
    columns = {"image": [png(pixels(0)), b"no picture"], "label": [0, 1]}
    data = hf(saved(tmp_path, train=columns, val=columns, features=FEATURES))
    with pytest.raises(InputError) as raises:
        data.train_dataset[1]
    message_of(raises, "saved, train, row 1: image: cannot be read")


def test_a_row_without_a_picture(tmp_path):
    columns = {"image": [png(pixels(0)), None], "label": [0, 1]}
    with pytest.raises(InputError) as raises:
        hf(saved(tmp_path, train=columns, val=columns, features=FEATURES))
    message_of(raises, "saved, train, row 1: image is null")


# --------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("labels", "feature", "names", "numbers"),
    [
        ([0, 1, 1], classes("dog", "cat"), ["dog", "cat"], [0, 1, 1]),
        (["dog", " cat", "dog"], None, ["cat", "dog"], [1, 0, 1]),
        ([10, 9, 10], Value("int32"), ["9", "10"], [1, 0, 1]),
        ([True, False, True], None, ["False", "True"], [1, 0, 1]),
        ([1.0, 0.0, 1.0], None, ["0.0", "1.0"], [1, 0, 1]),
    ],
    ids=["class labels", "strings", "whole numbers", "truth values", "floats"],
)
def test_labels_of_any_type(tmp_path, labels, feature, names, numbers):
    columns = {"text": ["a", "b", "c"], "label": labels}
    features = feature and {"text": Value("string"), "label": feature}
    data = hf(saved(tmp_path, train=columns, val=columns, features=features), vocab_size=50)
    assert data.class_names == names
    assert [entry["label"] for entry in data.train_dataset.items] == numbers


def test_class_labels_of_a_split_are_known_by_their_names(tmp_path):
    """A file of its own may number them in another order."""
    for split, names in (("train", ("dog", "cat")), ("val", ("cat", "dog"))):
        columns = {"text": ["a", "b"], "label": [0, 1]}
        features = Features({"text": Value("string"), "label": classes(*names)})
        made = Dataset.from_dict(columns, features)
        made.save_to_disk(str(tmp_path / "both" / split))
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "val"]}')
    data = hf(tmp_path / "both", vocab_size=50)
    assert data.class_names == ["dog", "cat"]
    assert [entry["label"] for entry in data.val_dataset.items] == [1, 0]


@pytest.mark.parametrize(
    ("labels", "feature", "told"),
    [
        ([0, -1], classes("a", "b"), "val, row 1: label is -1, which is no class"),
        ([0, None], classes("a", "b"), "val, row 1: label is null"),
        (["a", "c"], None, "val, row 1: unknown label 'c'; accepted: the labels of train, a, b"),
        (["a", ""], None, "val, row 1: label is ''"),
        ([0.5, 1.5], None, "val, row 0: label is 0.5, a number with a fraction"),
        ([[0], [1]], None, "val: label has values of type list"),
    ],
)
def test_labels_that_are_none(tmp_path, labels, feature, told):
    text = {"text": ["a", "b"]}
    train = {"label": ["a", "b"] if feature is None else [0, 1]}
    features = feature and {"text": Value("string"), "label": feature}
    path = saved(tmp_path, train=text | train, val=text | {"label": labels}, features=features)
    with pytest.raises(InputError) as raises:
        hf(path, vocab_size=50)
    message_of(raises, told)


# --------------------------------------------------------------------------- labels and numbers

SEVERAL = [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("columns", "features", "options"),
    [
        ({"y": [[1, 0], [], [1]]}, {"y": datasets.List(classes("dog", "cat"))}, {}),
        ({"y": [["cat", "dog"], [], ["cat"]]}, None, {"sorted": True}),
        ({"y": ["cat|dog", "", "cat"]}, None, {"sorted": True}),
        ({"dog": [1, 0, 0], "cat": [True, False, True]}, None, {"label_column": ["dog", "cat"]}),
    ],
    ids=["class labels", "lists of names", "a separator", "columns"],
)
def test_several_labels_of_any_type(tmp_path, columns, features, options):
    text = {"text": ["a", "b", "c"]}
    features = features and {"text": Value("string")} | features
    path = saved(tmp_path, train=text | columns, val=text | columns, features=features)
    names = ["dog", "cat"] if not options.pop("sorted", False) else ["cat", "dog"]
    data = hf(path, task="multilabel", vocab_size=50, **{"label_column": "y"} | options)
    expected = [x if names[0] == "dog" else x[::-1] for x in SEVERAL]
    assert data.class_names == names
    assert [entry["label"] for entry in data.val_dataset.items] == expected
    assert data.train_labels("data.sampler").tolist() == expected


def test_numbers_and_labels_of_pictures(tmp_path):
    columns = {"image": PICTURES["image"], "x": [i / 4 for i in range(10)], "y": list(range(10))}
    features = {"image": datasets.Image(), "x": Value("float64"), "y": Value("int32")}
    path = saved(tmp_path, train=columns, features=features)
    data = hf(path, task="regression", label_column=["x", "y"])
    assert data.class_names == ["x", "y"] and len(data.val_dataset) == 2
    dealt = [label for of in (data.train_dataset, data.val_dataset) for _, label in of.samples]
    assert sorted(dealt) == [[i / 4, float(i)] for i in range(10)]
    batch = next(iter(data.val_dataloader()))
    assert batch["label"].shape == (2, 2) and batch["label"].dtype == torch.float32


@pytest.mark.parametrize(
    ("labels", "feature", "task", "told"),
    [
        ([[0], [-1]], datasets.List(classes("a", "b")), "multilabel", "row 1: label is -1, which"),
        ([[0], None], datasets.List(classes("a", "b")), "multilabel", "row 1: label is None; acc"),
        ([0, 1], None, "multilabel", "row 0: label is 0; accepted: a list of labels"),
        ([0.5, None], None, "regression", "row 1: label is None; accepted: a finite number"),
        ([0.5, float("nan")], None, "regression", "row 1: label is nan; accepted: a finite number"),
    ],
)
def test_labels_and_numbers_that_are_none(tmp_path, labels, feature, task, told):
    columns = {"text": ["a", "b"], "label": labels}
    features = feature and {"text": Value("string"), "label": feature}
    with pytest.raises(InputError) as raises:
        hf(saved(tmp_path, train=columns, features=features), task=task, vocab_size=50)
    message_of(raises, "saved, train, ", told)


def test_a_test_split_without_numbers_is_left_out(tmp_path, capsys):
    columns = {"text": ["a", "b"], "label": [0.5, 1.5]}
    path = saved(tmp_path, train=columns, val=columns, test=columns | {"label": [None, None]})
    data = hf(path, task="regression", vocab_size=50)
    assert data.test_dataset is data.val_dataset
    assert "test: no row has a label, so it is left out" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- texts


def test_texts_are_those_of_a_table(tmp_path):
    """The same items, the same tokenizer, and the same batches in every epoch."""
    path = saved(tmp_path, train=TEXTS, validation=TEXTS)
    file = tmp_path / "train.parquet"
    Dataset.from_dict(TEXTS).to_parquet(str(file))
    options = {"batch_size": 4, "vocab_size": 60}
    data, helped = (HFDataModule(path, **options, num_workers=n) for n in (0, 2))
    table = TextTableDataModule(str(file), str(file), **options)
    assert list(data.train_dataset.items) == table.train_dataset.items
    assert data.train_dataset[3, 5] == item("very good film 5", 0)
    assert data.input_config == table.input_config and data.class_names == ["a", "b"]
    for epoch in range(2):
        expected = batches(table.train_dataloader(), epoch)
        for other in (data, helped):
            found = batches(other.train_dataloader(), epoch)
            assert [batch["text"] for batch in found] == [batch["text"] for batch in expected]
            assert [x["input_ids"].tolist() for x in found] == [
                x["input_ids"].tolist() for x in expected
            ]
    assert data.example() == ["--text", "good film 0"]


@pytest.mark.parametrize("columns", [PICTURES, TEXTS], ids=["pictures", "texts"])
def test_they_have_neither_masks_nor_rationales_to_train_on(tmp_path, columns):
    features = FEATURES if columns is PICTURES else None
    data = hf(saved(tmp_path, train=columns, validation=columns, features=features), vocab_size=60)
    with pytest.raises(InputError) as raises:
        data.mask_train()
    message_of(raises, "guidance: the training samples have no masks; accepted: digits")


def test_a_row_without_a_text(tmp_path):
    blank = {"text": ["a", " \n"], "label": ["a", "b"]}
    for name, column, told in (
        ("blank", blank["text"], "train, row 1: text is ' \\n'; accepted: a text"),
        ("null", ["a", None], "train, row 1: text is None; accepted: a text"),
        ("numbers", [1, 2], "train: text is Value('int64'); accepted: a column of strings"),
    ):
        path = saved(tmp_path, name, train=blank | {"text": column}, val=blank)
        with pytest.raises(InputError) as raises:
            hf(path, vocab_size=50)
        message_of(raises, told)


# --------------------------------------------------------------------------------------- places


def test_all_places_have_the_same_samples(tmp_path):
    made = Dataset.from_dict(PICTURES, Features(FEATURES))
    made.save_to_disk(str(tmp_path / "saved"))
    for split in ("train", "test"):
        made.to_parquet(str(tmp_path / "files" / f"{split}-00000-of-00001.parquet"))
    found = [
        hf(tmp_path / place)
        for place in ("saved", "files/train-00000-of-00001.parquet", "files", "files/train*")
    ]
    for data in found:
        assert data.class_names == ["dog", "cat"]
        sizes = [len(data.train_dataset), len(data.val_dataset)]
        assert sizes == [8, 2]  # a fifth of every class
        assert sorted(label for _, label in data.val_dataset.samples) == [0, 1]
        assert_same_batches([data.train_dataset[1, 2]], [found[0].train_dataset[1, 2]])
        assert data.val_dataset.samples == found[0].val_dataset.samples
        rows = [row for x in (data.train_dataset, data.val_dataset) for row, _ in x.samples]
        assert sorted(rows) == list(range(10))
    assert [len(data.test_dataset) for data in found] == [2, 2, 10, 2]


def test_splits_by_name(tmp_path, capsys):
    splits = {"train": TEXTS, "dev": TEXTS, "test": TEXTS | {"label": ["a", "b"] * 6}}
    path = saved(tmp_path, **splits)
    data = hf(path, vocab_size=50)
    assert [entry["label"] for entry in data.test_dataset.items] == [0, 1] * 6
    assert [entry["label"] for entry in data.val_dataset.items] == [1, 0] * 6  # dev
    data = hf(path, vocab_size=50, train="test", val="train", test="dev")
    assert [entry["label"] for entry in data.train_dataset.items] == [0, 1] * 6
    for option in ("train", "val", "test"):
        with pytest.raises(InputError) as raises:
            hf(path, **{option: "nowhere"})
        message_of(raises, f"data.{option}: {path} has no split 'nowhere'", "train, dev, test")
    with pytest.raises(InputError) as raises:
        hf(path, val="train")
    message_of(raises, "data.val: 'train' is the split of train")


def test_a_test_split_without_labels_is_left_out_and_told(tmp_path, capsys):
    """As GLUE's, whose labels are -1. One that is asked for is refused."""
    labelled, unlabelled = ({"text": ["a", "b"], "label": x} for x in ([0, 1], [-1, -1]))
    features = {"text": Value("string"), "label": classes("a", "b")}
    path = saved(tmp_path, train=labelled, val=labelled, test=unlabelled, features=features)
    data = hf(path, vocab_size=50)
    assert data.test_dataset is data.val_dataset
    assert f"{path}, test: no row has a label, so it is left out" in capsys.readouterr().err
    with pytest.raises(InputError) as raises:
        hf(path, vocab_size=50, test="test")
    message_of(raises, f"{path}, test, row 0: label is -1")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"image_column": "text", "text_column": "text"}, "columns of both"),
        ({"text_column": "nowhere"}, "no column 'nowhere'; accepted: one of text, label"),
        ({"label_column": "nowhere"}, "no column 'nowhere'; accepted: one of text, label"),
        ({"label_column": "text"}, "data.label_column: 'text' is not its own label"),
    ],
)
def test_columns_that_are_not_there(tmp_path, options, told):
    with pytest.raises(InputError) as raises:
        hf(saved(tmp_path, train=TEXTS, val=TEXTS), **options)
    message_of(raises, told)


def test_columns_of_other_names(tmp_path):
    columns = {"sentence": TEXTS["text"], "y": TEXTS["label"]}
    path = saved(tmp_path, train=columns, val=columns)
    data = hf(path, text_column="sentence", label_column="y", vocab_size=50)
    assert data.train_dataset[0] == item("good film 0", 1)
    with pytest.raises(InputError) as raises:
        hf(path)
    message_of(raises, "no column of pictures or texts", "data.text_column=", "sentence, y")


def test_places_where_nothing_is(tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(logging.getLogger("datasets"), "handlers", [handler := logging.Handler()])
    handler.emit = logged.append
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    for path, error, told in (
        (tmp_path / "nowhere", FileNotFoundError, "no such file or folder"),
        (tmp_path / "nowhere-*.parquet", FileNotFoundError, "no such file or folder"),
        (tmp_path / "empty", InputError, "data files"),
        (tmp_path / "broken.parquet", InputError, "Parquet"),
        ("somebody/nothing", InputError, "Couldn't reach 'somebody/nothing' on the Hub"),
    ):
        with pytest.raises(error) as raises:
            hf(path)
        message_of(raises, f"data.path {path}", told, "accepted: a folder that save_to_disk")
    assert not logged  # the line alone says what is wrong


# ------------------------------------------------------------------------------------ the extra


def test_a_missing_extra_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError) as raises:
        hf(tmp_path)
    message_of(raises, "data.kind=hf needs datasets", "pip install 'relprop[hf]'")
    (tmp_path / "a.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError) as raises:
        TextTableDataModule(*[str(tmp_path / "a.parquet")] * 2)
    message_of(raises, "a.parquet needs pyarrow", "pip install 'relprop[hf]'")
