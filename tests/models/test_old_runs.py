"""Runs of version 0.1.0 are resumed, explained and scored as if nothing had changed."""

import shutil
from pathlib import Path

import pytest

import explain
import train
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.utils.checkpoint_files import find_checkpoint
from tests.helpers.runs import load, rows

OLD_RUNS = Path(__file__).parents[1] / "reference" / "old_runs"


@pytest.fixture(params=["digits", "reviews"])
def old(request, tmp_path) -> Path:
    return shutil.copytree(OLD_RUNS / request.param, tmp_path / "run")


def test_an_old_run_is_resumed(old):
    """Two epochs are done. The table goes on, and the best epoch is known."""
    before, score = rows(old), best_score(old)
    train.main(["--resume", str(old), "trainer.max_epochs=3"])
    assert load(old)["epoch"] == 2 and load(old)["global_step"] == 9
    assert len(rows(old)) == 3
    for row, was in zip(rows(old), before, strict=False):
        assert {k: v for k, v in row.items() if v} == {k: v for k, v in was.items() if v}
    assert best_score(old) >= score


def best_score(run_dir: Path) -> float:
    states = load(run_dir)["callbacks"].items()
    (state,) = (s for name, s in states if name.startswith("ModelCheckpoint") and "val/" in name)
    return float(state["best_model_score"])


def test_an_old_run_is_stopped_within_an_epoch_and_goes_on(old):
    train.main(["--resume", str(old), "trainer.max_epochs=3", "trainer.max_steps=8"])
    assert load(old)["global_step"] == 8 and len(rows(old)) == 2
    train.main(["--resume", str(old), "trainer.max_steps=-1"])
    assert load(old)["global_step"] == 9 and len(rows(old)) == 3


def test_an_old_checkpoint_is_explained_and_scored(old, tmp_path):
    module = load_classifier(find_checkpoint(old))
    output = ["--output", str(tmp_path / "out")]
    if module.kind == "bert":
        explain.main(["--checkpoint", str(old), "--text", "a good film", *output])
    protocol = ["evaluate", "--protocol", "sanity", "--limit", "2", "--method", "rollout"]
    explain.main([*protocol, "--checkpoint", str(old), *output])
    assert (tmp_path / "out" / "scores.csv").is_file()
