"""Further test sets of the data: what a run and an evaluation make of them."""

import csv
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import explain
import train
from configs.schema import load_config
from lightning_modules.callbacks.background_figures import FIGURES
from lightning_modules.data import DATAMODULES
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.utils.checkpoint_files import find_checkpoint
from tests.helpers.runs import DIGITS, ONE_EPOCH, curve
from tests.helpers.samples import save

pytestmark = pytest.mark.usefixtures("few_draws")


@pytest.fixture(scope="module")
def marked(trained) -> Path:
    return trained(*ONE_EPOCH, "data.marker={}")


def metrics_of(run_dir: Path) -> dict[str, float]:
    return json.loads((run_dir / "metrics.json").read_text())


def test_each_test_set_is_tested_with_the_best_checkpoint(marked):
    model = load_classifier(find_checkpoint(marked)).eval()
    options = load_config(marked / "config.yaml", []).data
    data = DATAMODULES[options.pop("kind")](**options)
    metrics, logits = metrics_of(marked), []
    for name, dataset in {"test": data.test_dataset, **data.test_sets}.items():
        prefix = "test" if name == "test" else f"test/{name}"
        batch = torch.utils.data.default_collate([dataset[i] for i in range(len(dataset))])
        with torch.no_grad():
            logits.append(model(batch))
        loss = torch.nn.functional.cross_entropy(logits[-1], batch["label"])
        accuracy = (logits[-1].argmax(dim=-1) == batch["label"]).float().mean()
        assert metrics[f"{prefix}/loss"] == pytest.approx(float(loss), rel=1e-5)
        assert metrics[f"{prefix}/accuracy"] == pytest.approx(float(accuracy), abs=1e-6)
        assert 0 <= metrics[f"{prefix}/accuracy_top5"] <= 1
        assert curve(marked, f"{prefix}/loss")[-1][1] == pytest.approx(float(loss), rel=1e-5)
    assert not torch.equal(logits[0], logits[1]) and not torch.equal(logits[1], logits[2])


def test_the_figures_of_classes_are_those_of_the_test_split(marked):
    with open(marked / "classes.csv") as file:
        rows = list(csv.DictReader(file))
    metrics = metrics_of(marked)
    for row in rows:
        if int(row["samples"]):
            of_class = metrics[f"test_class_accuracy/{row['name']}"]
            assert float(row["recall"]) == pytest.approx(of_class)
    right = sum(float(row["recall"] or 0) * int(row["samples"]) for row in rows)
    assert right / 40 == pytest.approx(metrics["test/accuracy"])
    assert not any(name.startswith("test_class") and "shift" in name for name in metrics)


def test_a_test_set_without_masks_has_no_figures_of_them(tmp_path, capsys):
    """Of pictures the mask is all but the marker, and ``none`` has no marker."""
    rng = np.random.default_rng(0)
    for split, name, number in itertools.product(("train", "val", "test"), "ab", range(4)):
        pixels = rng.integers(60, 190, (32, 32, 3), dtype=np.uint8)
        save(tmp_path / "data" / split / name / f"{number}.png", pixels)
    options = [x for x in DIGITS if not x.startswith(("data.", "--config"))]
    options += [f"data.root={tmp_path / 'data'}", "data.marker={share: 1.0, size: 8}"]
    options += ["data.kind=image_folder", "data.image_size=32", "data.num_workers=0"]
    train.main([*options, *ONE_EPOCH, f"run_dir={tmp_path / 'run'}", "model.mixup=0"])
    metrics = metrics_of(tmp_path / "run")
    assert "test/shift/object_only" in metrics and "test/none/object_only" not in metrics
    (row,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("none 8"))
    assert row.split().count("-") == len(FIGURES)


def test_data_with_one_test_set_are_tested_as_before(trained):
    names = metrics_of(trained(*ONE_EPOCH))
    assert {name for name in names if name.startswith("test/")} == {
        f"test/{name}" for name in ("loss", "accuracy", "accuracy_top5", *FIGURES)
    }


def test_a_run_that_is_resumed_is_tested_the_same_and_its_table_has_a_row_a_test_set(
    marked, tmp_path, capsys
):
    shutil.copytree(marked, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    train.main(["--resume", str(tmp_path / "run")])
    assert metrics_of(tmp_path / "run") == metrics_of(marked)
    printed = capsys.readouterr().out
    assert "40 test (40 masks), 40 shift (40 masks), 40 none (40 masks) samples" in printed
    for name, of_set in (("all", "test"), ("shift", "test/shift"), ("none", "test/none")):
        (row,) = (line.split() for line in printed.splitlines() if line.startswith(f"{name} 40"))
        figures = sorted(["accuracy", "accuracy_top5", "loss", *FIGURES])
        assert row[2:] == [f"{metrics_of(marked)[f'{of_set}/{x}']:.3f}" for x in figures]


def evaluate(run_dir: Path, *more: str) -> None:
    few = ["--protocol", "segmentation", "--method", "raw_attention", "--limit", "4", *more]
    explain.main(["evaluate", "--checkpoint", str(run_dir), *few])


def test_methods_are_scored_on_a_test_set_by_its_name(marked, tmp_path, capsys):
    shutil.copytree(marked, tmp_path / "run")
    for split in ("test", "shift"):
        evaluate(tmp_path / "run", "--split", split)
    folders = {
        split: tmp_path / "run" / "scores" / folder
        for split, folder in (("test", "segmentation"), ("shift", "segmentation-shift"))
    }
    scored = {x: json.loads((y / "scores.json").read_text()) for x, y in folders.items()}
    assert scored["test"]["scores"] != scored["shift"]["scores"]
    assert [scored[x]["split"] for x in scored] == ["test", "shift"]
    assert "4 samples of shift" in capsys.readouterr().out


def test_a_test_set_that_the_data_do_not_have_is_refused(marked, trained, capsys):
    accepted = {marked: "test, shift, none", trained(*ONE_EPOCH): "test"}
    for run_dir, names in accepted.items():
        with pytest.raises(SystemExit) as exit_:
            evaluate(run_dir, "--split", "shfit")
        said = capsys.readouterr().err.strip().splitlines()
        assert exit_.value.code == 2
        assert said[-1].endswith(f"--split shfit: no such test set of the data; accepted: {names}")
        assert not (run_dir / "scores").exists()


def test_an_evaluation_of_a_version_without_split_goes_on(marked, tmp_path, monkeypatch):
    """It had no other test set, and said nothing of it."""
    from lightning_modules.protocols import scoring

    save = scoring.save_progress

    def cut_off(progress, about, folder):
        save(progress, {name: x for name, x in about.items() if name != "split"}, folder)
        raise KeyboardInterrupt

    output = ("--output", str(tmp_path / "scores"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scoring, "save_progress", cut_off)
        evaluate(marked, *output)
    evaluate(marked, "--resume", *output)
    assert (tmp_path / "scores" / "scores.json").is_file()
