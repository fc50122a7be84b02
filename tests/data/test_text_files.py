"""Treebanks and ERASER's movie reviews, as they lie on a disk."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from lightning_modules.data import (
    DATAMODULES,
    EraserDataModule,
    SSTDataModule,
)
from lightning_modules.utils.errors import InputError
from tests.helpers.samples import item, spelled

SHARED = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[3] / "shared"))


def test_the_registry():
    for name in ("reviews", "text_table", "sst", "eraser"):
        assert name in DATAMODULES


TREES = {
    "train.txt": "(3 (2 A) (4 (3 (2 very) (3 good)) (2 (2 film) (1 -LRB-))))\n"
    "(2 (2 Neutral) (3 good))\n"
    "(1 (1 (0 awful)  (2 ``) (4 ha) ) (2 1\\/2) (2 -RRB-) )\n",
    "dev.txt": "(0 bad)",
}


def write_files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_trees(tmp_path):
    data = SSTDataModule(str(write_files(tmp_path, TREES)), vocab_size=60)
    positive, negative = data.train_dataset.items
    assert positive["text"] == "A very good film (" and positive["label"] == 1
    assert spelled(positive["text"], positive["rationale"]) == ["good"]
    assert negative["text"] == 'awful " ha 1/2 )' and negative["label"] == 0
    assert spelled(negative["text"], negative["rationale"]) == ["awful"]
    assert data.val_dataset.items == [item("bad", 0, [(0, 3)])]
    assert data.test_dataset is data.val_dataset
    assert data.class_names == ["negative", "positive"]
    write_files(tmp_path, {"test.txt": "(4 fine)"})
    with_test = SSTDataModule(str(tmp_path), vocab_size=60)
    assert with_test.test_dataset.items == [item("fine", 1, [(0, 4)])]


@pytest.mark.parametrize(
    "tree",
    [
        "great film",
        "(3 (2 A) (5 film))",
        "(3 (2 A) (2 film)",
        "(3 (2 A)) (2 film))",
        "(3 (2 A) film)",
        "()",
        "(3 )",
    ],
)
def test_what_is_no_tree(tmp_path, tree):
    write_files(tmp_path, TREES | {"dev.txt": f"(3 fine)\n\n{tree}\n"})
    with pytest.raises(InputError, match=r"dev.txt, line 3: no tree; accepted: trees like"):
        SSTDataModule(str(tmp_path), vocab_size=60)


def test_missing_and_neutral_trees(tmp_path):
    with pytest.raises(FileNotFoundError, match="train.txt: no such file; accepted: trees like"):
        SSTDataModule(str(tmp_path))
    write_files(tmp_path, TREES | {"dev.txt": "(2 so)"})
    with pytest.raises(InputError, match="dev.txt: all trees are neutral; accepted: trees like"):
        SSTDataModule(str(tmp_path))


def evidence(docid: str, start: int, end: int, text: str) -> dict:
    return {"docid": docid, "start_token": start, "end_token": end, "text": text}


def annotation(name: str, label: str, *groups: list[dict], **more) -> dict:
    return {"annotation_id": name, "classification": label, "evidences": list(groups), **more}


def eraser_folder(tmp_path: Path, **splits) -> Path:
    annotations = {
        "train": [
            annotation("a", "POS", [evidence("a", 1, 3, "good film")], docids=None),
            annotation("b", "NEG", [evidence("b", 0, 1, "bad")], [evidence("b", 1, 4, "so , so")]),
        ],
        "val": [annotation("both", "NEG", [evidence("b", 3, 4, "so")], docids=["a", "b"])],
        "test": [annotation("a", "POS")],
    } | splits
    documents = {"docs/a": "a good\nfilm .\n", "docs/b": "bad so\t,  so\n"}
    files = {
        f"{split}.jsonl": "".join(f"{json.dumps(row)}\n" for row in rows)
        for split, rows in annotations.items()
    }
    return write_files(tmp_path, documents | files)


def test_eraser(tmp_path):
    data = EraserDataModule(str(eraser_folder(tmp_path)), vocab_size=60)
    assert data.class_names == ["NEG", "POS"]
    good, bad = data.train_dataset.items
    assert good["text"].split() == "a good film .".split() and good["label"] == 1
    assert spelled(good["text"], good["rationale"]) == ["good\nfilm"]
    assert spelled(bad["text"], bad["rationale"]) == ["bad", "so\t,  so"]
    (both,) = data.val_dataset.items
    assert both["text"].split() == "a good film . bad so , so".split()
    assert both["rationale"] == [(both["text"].rindex("so"), both["text"].rindex("so") + 2)]
    assert data.test_dataset[0]["rationale"] == [] and data.test_dataset[0]["text"] == good["text"]
    batch = data.collate([good, bad])
    assert batch["rationale"].tolist() == [[False, True, True, False], [True] * 4]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (annotation("a", "POS", [evidence("a", 1, 3, "good movie")]), "tokens 1 to 3 of a are"),
        (annotation("a", "POS", [evidence("a", 3, 5, ".")]), "tokens 3 to 5 of a are '.'"),
        (annotation("a", "POS", [evidence("a", 2, 2, "")]), "tokens 2 to 2 of a are ''"),
        (annotation("a", "POS", [evidence("a", -3, -2, "good")]), "tokens -3 to -2 of a"),
        (annotation("a", "meh"), "unknown label 'meh'; accepted: the labels of train, NEG, POS"),
        ({"annotation_id": "a", "classification": "POS"}, "malformed annotation .*evidences"),
        (annotation("a", "POS", [{"docid": "a"}]), "malformed annotation .*start_token"),
        (annotation("a", "POS", [evidence("a", "1", "2", "good")]), "malformed annotation"),
        (annotation("a", "POS", [evidence("a", 1, 2, None)]), "malformed annotation"),
        (annotation(None, "POS"), "malformed annotation"),
        (annotation("a", None), "classification is None; accepted"),
        (annotation("a", 0.5), "classification is 0.5, a number with a fraction"),
    ],
)
def test_annotations_that_do_not_fit(tmp_path, row, told):
    root = eraser_folder(tmp_path, val=[annotation("a", "POS"), row])
    with pytest.raises(InputError, match=rf"val.jsonl, line 2: {told}") as error:
        EraserDataModule(str(root), vocab_size=60)
    assert "\n" not in str(error.value) and "accepted: " in str(error.value)


def test_missing_files_of_eraser(tmp_path):
    with pytest.raises(FileNotFoundError, match="train.jsonl: no such file; accepted: ERASER's"):
        EraserDataModule(str(tmp_path))
    root = eraser_folder(tmp_path, val=[annotation("c", "POS")])
    with pytest.raises(FileNotFoundError, match="c: no such file; .* that .*val.jsonl, line 1 nam"):
        EraserDataModule(str(root), vocab_size=60)


@pytest.mark.data
@pytest.mark.skipif(not (SHARED / "data/sst").is_dir(), reason="no ../shared/data/sst")
def test_the_real_treebank():
    data = SSTDataModule(str(SHARED / "data/sst"))
    assert [len(data.train_dataset), len(data.val_dataset)] == [6921, 872]
    assert any("(" in entry["text"] for entry in data.train_dataset.items)
    marked = [entry for entry in data.val_dataset.items if entry["rationale"]]
    assert len(marked) > 700
    assert all(np.all(np.diff(entry["rationale"]) > 0) for entry in marked)


@pytest.mark.data
@pytest.mark.skipif(
    not (SHARED / "data/eraser-movies").is_dir(), reason="no ../shared/data/eraser-movies"
)
def test_the_real_movie_reviews():
    """Every evidence was checked against its document while reading."""
    data = EraserDataModule(str(SHARED / "data/eraser-movies"))
    splits = (data.train_dataset, data.val_dataset, data.test_dataset)
    assert [len(split) for split in splits] == [1600, 200, 200]
    assert sum(len(entry["rationale"]) for split in splits for entry in split.items) == 18122
    batch = next(iter(data.val_dataloader()))
    assert batch["input_ids"].shape == (10, 512) and max(batch["dropped"]) > 0
