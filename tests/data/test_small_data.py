"""The small data sets of docs/examples are those that the documents say."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from lightning_modules.data import DATAMODULES

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PLAIN = {"image_size": 32, "auto_augment": None, "hflip": 0.0, "scale": [1.0, 1.0]}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    patch, folder = pytest.MonkeyPatch(), tmp_path_factory.mktemp("small")
    with patch.context() as context:
        context.syspath_prepend(EXAMPLES)
        import small_data

        small_data.main(folder)
    return folder


def data(kind: str, **options):
    module = DATAMODULES[kind](**options)
    module.setup("fit")
    module.setup("test")
    return module


def test_five_classes_of_the_folders_are_rare(small):
    folders = data("image_folder", root=str(small / "digits"), **PLAIN)
    counts = Counter(path.parent.name for path in (small / "digits" / "train").rglob("*.png"))
    assert all(counts[str(digit)] > 100 for digit in range(5))
    assert all(counts[str(digit)] in (11, 12) for digit in range(5, 10))
    assert len(folders.val_dataset) == 359 and len(folders.test_dataset) == 360


def test_tars_and_parquet_have_the_same_pictures(small):
    splits = {split: str(small / "tars" / f"{split}.tar") for split in ("train", "val", "test")}
    tars = data("image_tars", **splits, **PLAIN)
    tables = data("hf", path=str(small / "parquet"), **PLAIN)
    for name, size in (("train_dataset", 1078), ("val_dataset", 359), ("test_dataset", 360)):
        of_tars, of_tables = getattr(tars, name), getattr(tables, name)
        assert len(of_tars) == len(of_tables) == size
    for index in (0, 200, 359):
        a, b = tars.test_dataset[index], tables.test_dataset[index]
        assert torch.equal(a["image"], b["image"]) and a["label"] == b["label"]


def test_the_word_that_answers_is_the_rationale(small):
    for line in (small / "questions" / "val.tsv").read_text().splitlines()[1:]:
        text, question, answer, rationale = line.split("\t")
        ((start, end),), second = json.loads(rationale)
        aspect = question.removeprefix("how was the ").removesuffix("?")
        assert second == [] and text[:start].endswith(f"the {aspect} was ")
        good = text[start:end] in ("great", "lovely", "moving", "clever", "superb", "charming")
        assert answer == ("good" if good else "bad")
