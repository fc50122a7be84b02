"""metrics.csv: a row an epoch, and in it what that epoch has measured."""

from pathlib import Path

import train
from tests.helpers.runs import DIGITS, load, rows, run

EVERY_EPOCH = {"epoch", "step", "train/loss", "train/accuracy", "train/lr"}


def measured(run_dir: Path) -> list[set[str]]:
    """Of each epoch the columns that are not empty."""
    return [{name for name, value in row.items() if value != ""} for row in rows(run_dir)]


def groups(columns: set[str]) -> set[str]:
    return {name.split("/")[0] for name in columns} & {
        "val",
        "val_class_accuracy",
        "relevance",
        "protocols",
    }


def test_an_epoch_without_validation_has_no_validation_metrics(tmp_path):
    options = ["trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4"]
    cells = measured(run(tmp_path / "run", *options))
    assert all(EVERY_EPOCH <= columns for columns in cells)
    for epoch, columns in enumerate(cells):
        expected = {"val", "val_class_accuracy", "relevance"} if epoch % 2 else set()
        assert groups(columns) == expected, epoch


def test_also_after_a_resume(tmp_path):
    options = ["trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4"]
    whole = run(tmp_path / "whole", *options)
    run_dir = run(tmp_path / "run", *options, "trainer.max_steps=6")
    train.main(["--resume", str(run_dir), "trainer.max_steps=-1"])
    assert rows(run_dir) == rows(whole)
    assert load(run_dir, "best")["epoch"] == load(whole, "best")["epoch"]


def test_what_is_not_tracked_in_an_epoch_is_empty(tmp_path):
    options = ["tracker.every_n_epochs=3", "tracker.protocols=[sanity]", "trainer.max_epochs=4"]
    options += ["tracker.protocols_every_n_epochs=2"]
    cells = measured(run(tmp_path / "run", *options))
    assert [groups(columns) - {"val", "val_class_accuracy"} for columns in cells] == [
        {"relevance", "protocols"},
        set(),
        set(),
        {"relevance", "protocols"},
    ]


def test_a_validation_within_the_epoch_is_in_its_row(tmp_path):
    options = ["trainer.val_check_interval=2", "tracker=null"]
    assert all("val/accuracy" in columns for columns in measured(run(tmp_path / "run", *options)))


def test_steps_that_end_with_an_epoch_leave_one_row_of_it(tmp_path):
    options = ["trainer.max_epochs=-1", "trainer.max_steps=6", "tracker=null"]
    train.main([*DIGITS, *options, f"run_dir={tmp_path / 'run'}"])
    train.main(["--resume", str(tmp_path / "run"), "trainer.max_steps=9"])
    assert [(row["epoch"], row["step"]) for row in rows(tmp_path / "run")] == [
        ("0", "3"),
        ("1", "6"),
        ("2", "9"),
    ]
    assert all(row["val/accuracy"] for row in rows(tmp_path / "run"))
