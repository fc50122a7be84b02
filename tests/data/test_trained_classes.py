"""Some of a data set's classes: which samples there are, and how they are labelled."""

import numpy as np
import pytest
import torch

from lightning_modules.data import DigitsDataModule, ImageFolderDataModule, TextTableDataModule
from lightning_modules.data.images.digits import split_sources
from lightning_modules.utils.errors import InputError
from tests.helpers.samples import message_of, save

SIZES = {"train_size": 40, "val_size": 60, "test_size": 60, "pairs_size": 20}
ANIMALS = ("ant", "bee", "cat", "dog")


def digits(*classes: int, **options) -> DigitsDataModule:
    return DigitsDataModule(classes=list(classes) or None, **SIZES, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A picture of each class in each split, of a grey of its own."""
    root = tmp_path_factory.mktemp("folder")
    for split in ("train", "val", "test"):
        for label, name in enumerate(ANIMALS):
            save(root / split / name / "1.png", np.full((8, 8), 60 * label, np.uint8))
    return root


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "texts.csv"
    rows = [f"a text of {name} number {i},{name}" for name in ANIMALS for i in range(3)]
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return str(path)


def pictures(root, **options) -> ImageFolderDataModule:
    return ImageFolderDataModule(str(root), image_size=8, **options)


def texts(table, **options) -> TextTableDataModule:
    return TextTableDataModule(table, table, vocab_size=60, max_length=16, **options)


def ink_of(data, split: str, class_names: list[str]) -> None:
    """Each label's sources are the digits of its class."""
    sources, every = getattr(data, f"{split}_dataset").sources, split_sources(0)[split]
    for label in set(sources.classes.tolist()):
        ours = sources.ink[sources.classes == label]
        np.testing.assert_array_equal(ours, every.ink[every.classes == int(class_names[label])])


def test_digits_of_some_classes_have_their_order_for_labels():
    data = digits(7, 3)
    assert data.class_names == ["7", "3"]
    for split in ("train", "val", "test"):
        dataset = getattr(data, f"{split}_dataset")
        assert {dataset[i]["label"] for i in range(len(dataset))} == {0, 1}
        ink_of(data, split, data.class_names)
    assert set(data.pairs_dataset[0]["labels"].tolist()) == {0, 1}


def test_without_the_option_digits_are_what_they_were():
    data, sources = digits(), split_sources(0)
    assert data.class_names == [str(x) for x in range(10)]
    assert np.array_equal(data.train_dataset.sources.classes, sources["train"].classes)


def test_classes_of_an_earlier_run_come_first_and_are_not_trained_on():
    data = digits(8, 2)
    data.add_classes(["5", "1"])
    assert data.class_names == ["5", "1", "8", "2"]
    for split, labels in (("train", {2, 3}), ("val", {0, 1, 2, 3}), ("test", {0, 1, 2, 3})):
        dataset = getattr(data, f"{split}_dataset")
        assert {dataset[i]["label"] for i in range(len(dataset))} == labels
        ink_of(data, split, data.class_names)
    assert {x for i in range(20) for x in data.pairs_dataset[i]["labels"].tolist()} == {0, 1, 2, 3}


@pytest.mark.parametrize("make", [pictures, texts])
def test_files_of_some_classes(make, folder, table):
    root = folder if make is pictures else table
    every, data = make(root), make(root, classes=["dog", "bee"])
    data.add_classes(["cat", "eel"])  # of which the data know one
    assert data.class_names == ["cat", "eel", "dog", "bee"]

    def labelled(data, split):
        dataset = getattr(data, f"{split}_dataset")
        labels = [data.class_names[dataset[i]["label"]] for i in range(len(dataset))]
        if make is pictures:
            return dict(zip([path for path, _ in dataset.samples], labels, strict=True))
        return dict(zip([item["text"] for item in dataset.items], labels, strict=True))

    for split, names in (
        ("train", {"dog", "bee"}),
        ("val", {"dog", "bee", "cat"}),
        ("test", {"dog", "bee", "cat"}),
    ):
        expected = {x: name for x, name in labelled(every, split).items() if name in names}
        assert labelled(data, split) == expected
    labels = data.train_labels("data.sampler")
    assert torch.equal(labels.unique(), torch.tensor([2, 3]))


def test_the_pieces_of_a_tokenizer_are_those_of_the_texts_that_are_left(table):
    some = texts(table, classes=["ant", "bee"]).input_config["tokenizer"]
    assert "dog" in str(texts(table).input_config["tokenizer"])
    assert "dog" not in str(some)


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        ([], "[]"),
        ([1, 1], "each once"),
        ([1, 12], "accepted: some of the data's classes, each once: 0, 1, 2"),
    ],
)
def test_classes_that_are_refused(classes, reason):
    with pytest.raises(ValueError) as raised:
        DigitsDataModule(classes=classes, **SIZES)
    message_of(raised, "data.classes", reason)


def test_classes_are_of_one_right_class_without_a_marker():
    with pytest.raises(ValueError) as raised:
        digits(1, 2, task="multilabel")
    message_of(raised, "data.classes", "null with the task multilabel")
    with pytest.raises(ValueError) as raised:
        digits(1, 2, marker={})
    message_of(raised, "data.classes", "null with data.marker")
    with pytest.raises(InputError) as raised:
        digits(marker={}).add_classes(["a"])
    message_of(raised, "model.previous", "without a marker")
    with pytest.raises(InputError) as raised:
        digits(task="multilabel").add_classes(["a"])
    message_of(raised, "model.previous", "the task is multilabel")


def test_what_an_earlier_run_has_learnt_is_not_trained_on_again():
    with pytest.raises(InputError) as raised:
        digits(4, 5).add_classes(["3", "4"])
    message_of(raised, "data.classes", "has learnt '4'", "accepted: classes that it has not learnt")


def test_a_split_without_samples_is_refused(folder, tmp_path):
    for split, names in (("train", ANIMALS), ("val", ANIMALS[:2])):
        for name in names:
            save(tmp_path / split / name / "1.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(InputError) as raised:
        pictures(tmp_path, classes=["cat", "dog"])
    message_of(raised, "val has no sample of cat, dog")
