"""Several labels, and numbers, of data that are files, tables, shards and data sets."""

import json
import math
import shutil

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

import explain
import train
from tests.helpers.runs import assert_same_end, load, rows
from tests.helpers.samples import save
from tests.helpers.tars import write_tar

CONFIG = """
task: {task}
model:
  kind: {model}
data: {{batch_size: 8, num_workers: 0, {data}}}
tracker: {{samples: 4}}
trainer: {{max_epochs: 2, accelerator: cpu, enable_progress_bar: false, log_every_n_steps: 1}}
"""
VIT = """vit
  name: vit_tiny_patch16_224
  model_options: {patch_size: 8, embed_dim: 16, depth: 2, num_heads: 2, drop_path_rate: 0.1}"""
BERT = """bert
  config: {model_type: bert, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2,
    intermediate_size: 32, max_position_embeddings: 32}"""
COUNTS = {"train": 24, "val": 8}
NAMES = ("left", "right")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures that are bright on the left or the right, or both, and what is said of them."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    splits, files = {}, {split: [] for split in COUNTS}
    for split, count in COUNTS.items():
        table, columns = ["file,labels"], {"text": [], "label": [], "much": []}
        for number in range(count):
            there = [number % 2 == 0, number % 3 == 0]
            pixels = rng.integers(0, 100, (32, 32, 3), dtype=np.uint8)
            pixels[:, :16] += np.uint8(150 * there[0])
            pixels[:, 16:] += np.uint8(150 * there[1])
            path = root / "folders" / split / f"{number % 4}" / f"{number:02d}.png"
            save(path, pixels)
            names = [name for name, x in zip(NAMES, there, strict=True) if x]
            table.append(f"{number % 4}/{number:02d}.png,{'|'.join(names)}")
            said = json.dumps({"much": sum(there), "mean": float(pixels.mean())})
            files[split] += [
                (f"{number}.png", path.read_bytes()),
                (f"{number}.json", said.encode()),
            ]
            columns["text"].append(f"it is bright {' and '.join(names) or 'nowhere'}")
            columns["label"].append([place for place, x in enumerate(there) if x])
            columns["much"].append(sum(there) / 2)
        (root / "folders" / split / "labels.csv").write_text("\n".join(table))
        write_tar(root / "tars" / f"{split}.tar", files[split])
        of_text = zip(columns["text"], columns["label"], columns["much"], strict=True)
        lines = (f"{text},{int(0 in x)},{int(1 in x)},{y}" for text, x, y in of_text)
        (root / f"{split}.csv").write_text("\n".join(["text,left,right,much", *lines]))
        features = {"text": Value("string"), "label": List(ClassLabel(names=list(NAMES)))}
        splits[split] = Dataset.from_dict(columns, Features(features | {"much": Value("float32")}))
    DatasetDict(splits).save_to_disk(str(root / "texts"))
    size = "image_size: 32, auto_augment: null"
    tables = f"kind: text_table, train: '{root}/train.csv', val: '{root}/val.csv', max_length: 16"
    tars = f"kind: image_tars, train: '{root}/tars/train.tar', val: '{root}/tars/val.tar'"
    words = "max_length: 16, vocab_size: 60"
    return {
        "folders": ("multilabel", VIT, f"kind: image_folder, root: '{root}/folders', {size}"),
        "tars": ("regression", VIT, f"{tars}, label_key: [much, mean], {size}"),
        "tables": ("multilabel", BERT, f"{tables}, label_column: [left, right]"),
        "hf": ("multilabel", BERT, f"kind: hf, path: '{root}/texts', {words}"),
        "hf numbers": (
            *("regression", BERT),
            f"kind: hf, path: '{root}/texts', label_column: much, {words}",
        ),
        "root": root,
    }


BALANCED = ("model.class_weights=balanced", "model.focal=1", "data.sampler=balanced")
OPTIONS = {"folders": BALANCED, "tables": BALANCED, "hf": BALANCED}


def fit(folder, task: str, model: str, data: str, *overrides: str):
    folder.mkdir()
    path = folder / "experiment.yaml"
    path.write_text(CONFIG.format(task=task, model=model, data=data))
    train.main([f"--config={path}", f"run_dir={folder / 'run'}", *overrides])
    return folder / "run"


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """An undisturbed run on each kind of data."""
    root, made = tmp_path_factory.mktemp("runs"), {}

    def run(kind: str):
        if kind not in made:
            made[kind] = fit(root / kind.replace(" ", "_"), *data[kind], *OPTIONS.get(kind, ()))
        return made[kind]

    return run


KINDS = ("folders", "tars", "tables", "hf", "hf numbers")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_trains_is_watched_tested_and_explained(data, runs, tmp_path, kind):
    run_dir, (task, *_) = runs(kind), data[kind]
    monitor = {"multilabel": "average_precision", "regression": "rmse"}[task]
    assert [float(row[f"val/{monitor}"]) > 0 for row in rows(run_dir)] == [True, True]
    assert f"test/{monitor}" in json.loads((run_dir / "metrics.json").read_text())
    assert (run_dir / "explanations" / "epoch=001.png").is_file()
    assert (run_dir / "classes.csv").is_file() == (task == "multilabel")
    picture = str(data["root"] / "folders" / "val" / "0" / "00.png")
    given = ["--input", picture] if kind in ("folders", "tars") else ["--text", "it is bright left"]
    checkpoint = str(run_dir / "checkpoints" / "best.ckpt")
    explain.main(
        ["--checkpoint", checkpoint, *given, "--format", "json", "--output", str(tmp_path)]
        + ["--target", "present" if task == "multilabel" else "all"]
    )
    about = json.loads((tmp_path / "explanations.json").read_text())
    numbers = {"tars": ["much", "mean"], "hf numbers": ["much"]}
    assert about["class_names"] == numbers.get(kind, list(NAMES))
    assert about["activation"] == ("sigmoid" if task == "multilabel" else None)


def test_watched_samples_without_a_label_have_figures(data, tmp_path):
    """Those of the label that is not there."""
    folders = shutil.copytree(data["root"] / "folders", tmp_path / "folders")
    table = folders / "val" / "labels.csv"
    names = [line.split(",")[0] for line in table.read_text().splitlines()[1:]]
    table.write_text("\n".join(["file,labels", *(f"{name}," for name in names)]))
    task, model, options = data["folders"]
    options = options.replace(str(data["root"] / "folders"), str(folders))
    run_dir = fit(tmp_path / "it", task, model, options)
    for name in ("concentration", "drift"):
        assert math.isfinite(float(rows(run_dir)[-1][f"relevance/{name}"]))


def test_a_balanced_run_on_folders_goes_on_within_an_epoch(data, runs, tmp_path):
    stop = ("trainer.max_steps=4",)  # of 6
    run_dir = fit(tmp_path / "it", *data["folders"], *BALANCED, *stop)
    assert load(run_dir)["global_step"] == 4
    train.main(["--resume", str(run_dir), "trainer.max_steps=-1"])
    assert_same_end(run_dir, runs("folders"), "average_precision")


@pytest.mark.parametrize("kind", ["folders", "tables", "hf"])
def test_weights_are_those_of_the_labels_that_are_there(runs, kind):
    """12 and 8 of 24 samples have the labels."""
    weights = load(runs(kind))["hyper_parameters"]["class_weights"]
    assert weights == pytest.approx([1.0, 2.0])


def test_a_wrong_table_is_one_line(data, tmp_path, capsys):
    table = data["root"] / "train.csv"
    options = f"kind: text_table, train: '{table}', val: '{table}', label_column: [left, text]"
    with pytest.raises(SystemExit) as ended:
        fit(tmp_path / "it", "regression", BERT, options)
    assert ended.value.code == 2 and not (tmp_path / "it" / "run").exists()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "label_column" in line and "accepted: another column than text_column" in line
