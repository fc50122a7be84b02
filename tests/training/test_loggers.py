"""Loggers by name, several at once, each of which a resumed run goes on with."""

import csv
import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers.logger import DummyLogger
from mlflow import MlflowClient

import train
from lightning_modules.loggers import LOGGERS, Destination, Place, show_picture, show_text
from lightning_modules.loggers.mlflow import MLflow, key
from lightning_modules.utils.errors import InputError
from tests.helpers.runs import EPOCHS, curve, rows, run

pytestmark = pytest.mark.slow

ALL = ("loggers={tensorboard: {}, csv: {}, wandb: {offline: true}, mlflow: {}}",)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("undisturbed"), *ALL)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory) -> Path:
    """Stopped within the second epoch, and resumed."""
    run_dir = run(tmp_path_factory.mktemp("resumed"), *ALL, "trainer.max_steps=4")
    train.main(["--resume", str(run_dir), "trainer.max_steps=-1"])
    return run_dir


def steps_of(run_dir: Path) -> list[dict]:
    """The table of steps, less what is a time."""
    with open(run_dir / "csv" / "metrics.csv") as file:
        return [
            {k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)
        ]


def asked(run_dir: Path, query: str) -> list[tuple]:
    """Rows of MLflow's data base."""
    with sqlite3.connect(run_dir / "mlflow.db") as base:
        return base.execute(query).fetchall()


def test_each_logger_has_the_same_scalars(undisturbed):
    expected = np.array(curve(undisturbed, "val/accuracy"))
    assert len(expected) == EPOCHS
    table = [(x["step"], x["val/accuracy"]) for x in steps_of(undisturbed) if x["val/accuracy"]]
    np.testing.assert_allclose(np.array(table, float), expected)
    found = asked(undisturbed, "select step, value from metrics where key = 'val/accuracy'")
    np.testing.assert_allclose(sorted(found), expected)


def test_the_table_of_steps_survives_a_resume(undisturbed, resumed):
    assert steps_of(resumed) == steps_of(undisturbed)
    assert rows(resumed) == rows(undisturbed)  # metrics.csv, which it does not touch


def test_tensorboard_survives_a_resume(undisturbed, resumed):
    assert curve(resumed, "train/loss") == curve(undisturbed, "train/loss")


def test_a_resumed_run_goes_on_in_the_same_run_of_weights_and_biases(resumed):
    known = json.loads((resumed / "loggers.json").read_text())["wandb"]
    runs = list((resumed / "wandb").glob("offline-run-*"))
    assert len(runs) > 1
    assert {path.name.rpartition("-")[2] for path in runs} == {known}


def test_a_resumed_run_goes_on_in_the_same_run_of_mlflow(undisturbed, resumed):
    (only,) = asked(resumed, "select run_uuid, status from runs")
    assert only == (json.loads((resumed / "loggers.json").read_text())["mlflow"], "FINISHED")
    query = "select distinct step, value from metrics where key = 'train/loss' order by step"
    assert asked(resumed, query) == asked(undisturbed, query)
    query = "select value from params where key = 'data/kind'"
    assert asked(resumed, query) == [("digits",)]


def test_pictures_are_shown_where_they_can_be(undisturbed):
    pictures = list((undisturbed / "wandb").glob("offline-run-*/files/media/images/explanations/*"))
    assert len([x for x in pictures if x.name.startswith("samples")]) == EPOCHS
    pictures = list((undisturbed / "mlflow").glob("*/artifacts/images/*samples*.png"))
    assert len(pictures) == EPOCHS


def test_texts_are_shown_where_they_can_be(tmp_path):
    run_dir = run(tmp_path, "loggers={mlflow: {}}", "trainer.max_epochs=1", experiment="reviews")
    (text,) = (run_dir / "mlflow").glob("*/artifacts/explanations/samples/step=*.md")
    assert "true:" in text.read_text()
    assert not list(run_dir.glob("events.out.tfevents.*"))  # the section names all loggers


def test_names_that_mlflow_shortens_stay_apart():
    keys = [key(f"val_class_accuracy/{name}") for name in ("猫", "犬", "a+b", "a-b", "ab", "Kuh")]
    assert len(set(keys)) == len(keys)
    assert keys[-2:] == ["val_class_accuracy/ab", "val_class_accuracy/Kuh"]
    assert all(x.isascii() for x in keys)


def test_without_loggers(tmp_path):
    run_dir = run(tmp_path, "loggers={}", "trainer.max_epochs=1")
    assert rows(run_dir) and (run_dir / "explanations" / "epoch=000.png").is_file()
    assert not list(run_dir.glob("events.out.tfevents.*"))


def test_a_logger_of_ones_own(monkeypatch):
    """Registered, it shows what its maker has it show."""

    class Mine(DummyLogger):
        shown: list = []

    class Shown(Destination):
        type = Mine

        def make(self, place):
            return Mine()

        @staticmethod
        def show_picture(logger, tag, picture, step):
            logger.shown.append((tag, picture.shape, step))

    monkeypatch.setitem(LOGGERS, "mine", Shown)
    loggers = [Mine(), DummyLogger()]
    show_picture(loggers, "a", np.zeros((2, 3, 3), np.uint8), 5)
    show_text(loggers, "a", "b", 5)
    assert Mine.shown == [("a", (2, 3, 3), 5)]


@pytest.mark.parametrize(
    "given, named",
    [
        ("loggers={wandbb: {}}", '"wandbb" is unknown, did you mean wandb?'),
        (
            "loggers={wandb: {projekt: p}}",
            "loggers.wandb.projekt: unknown key, did you mean project?",
        ),
        ("loggers={csv: {flush_logs_every_n_steps: 0}}", "accepted: int of at least 1"),
        ("loggers={mlflow: {tracking_uri: 'nowhere://x'}}", "loggers.mlflow: "),
    ],
)
def test_wrong_loggers_are_told(tmp_path, capsys, given, named):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", given)
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and named in message and "accepted: " in message
    assert not (tmp_path / "run").exists()


def test_a_moved_run_finds_its_pictures_in_mlflow(undisturbed, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(undisturbed, moved)
    MLflow().make(Place(moved))
    client = MlflowClient(f"sqlite:///{moved / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'relprop'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert experiment.artifact_location == (moved / "mlflow").as_uri()
    assert found.info.artifact_uri.startswith(experiment.artifact_location)
    assert client.list_artifacts(found.info.run_id)


def test_what_came_after_the_checkpoint_is_not_in_mlflow_twice(undisturbed, tmp_path):
    """As where a run was killed: all of it is there, and it goes on from a step before its end."""
    moved, step = tmp_path / "moved", 5
    shutil.copytree(undisturbed, moved)
    known = json.loads((moved / "loggers.json").read_text())["mlflow"]
    every = "select key, step, value from metrics order by key, step"
    MLflow().make(Place(moved, step))
    before = asked(undisturbed, every)
    assert asked(moved, every) == [row for row in before if row[1] < step] != before
    latest = MlflowClient(f"sqlite:///{moved / 'mlflow.db'}").get_run(known).data.metrics
    assert latest == {name: value for name, at, value in before if at < step}
    shown = [x.name for x in (moved / "mlflow" / known / "artifacts" / "images").glob("*.png")]
    assert len(shown) == 2 and all("step+2+" in name for name in shown)


def test_a_run_that_mlflow_does_not_know_is_named(tmp_path):
    place = Place(tmp_path)
    place.keep("mlflow", "0" * 32)
    with pytest.raises(InputError, match=f"loggers.mlflow: run {'0' * 32} of loggers.json: .*acc"):
        _ = MLflow().make(place).experiment


def test_a_broken_list_of_runs_is_named(tmp_path):
    (tmp_path / "loggers.json").write_text("{")
    with pytest.raises(InputError, match="loggers.json is broken"):
        _ = Place(tmp_path).known
