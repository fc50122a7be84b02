"""A run that is stopped within an epoch, and resumed, ends as one that never was: to the bit."""

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import Timer
from torchmetrics import MetricCollection

import train
from lightning_modules import experiment
from lightning_modules.callbacks.unfinished_epoch import process_state, restore
from tests.helpers.processes import finish_two
from tests.helpers.runs import DIGITS, EPOCHS, assert_same_end, load, rows, run

BATCHES = 3  # of an epoch of the small experiments
MIXED = ("model.mixup=0.5",)  # by NumPy's generator
WORKERS = ("data.num_workers=2",)
ACCUMULATED = ("trainer.accumulate_grad_batches=2", "data.batch_size=16")  # 6 batches, 3 steps
MIXED_WINDOWS = (*ACCUMULATED, *MIXED)
VALIDATED = ("trainer.val_check_interval=4", "data.batch_size=16")  # at 4 of 6 batches alone


@pytest.fixture
def add_callback(monkeypatch):
    """Has train.py add a callback to its own; gives the call that takes it out again."""

    def add(callback: Callback):
        original = experiment.callbacks
        monkeypatch.setattr(experiment, "callbacks", lambda config: [callback, *original(config)])
        return lambda: monkeypatch.setattr(experiment, "callbacks", original)

    return add


STOPS = [  # others are in tests/soak
    ("digits", MIXED_WINDOWS, 1),  # within a window, in the first epoch
    ("digits", (), 6),  # the end of an epoch
    ("digits", VALIDATED, 11),  # what was validated before is in the row of the epoch
    ("reviews", WORKERS, 5),
]


@pytest.mark.parametrize(("experiment", "options", "step"), STOPS)
def test_a_run_stopped_at_a_step_is_resumed_to_the_same_end(
    trained, tmp_path, experiment, options, step
):
    check_stop(trained, tmp_path / "run", experiment, options, step)


def check_stop(trained, run_dir: Path, experiment: str, options: tuple, step: int) -> None:
    run(run_dir, *options, f"trainer.max_steps={step}", experiment=experiment)
    assert load(run_dir)["global_step"] == step
    steps = 2 * BATCHES if options == VALIDATED else BATCHES
    written = rows(run_dir) if (run_dir / "metrics.csv").is_file() else []
    assert len(written) == step // steps  # no row of an unfinished epoch
    train.main(["--resume", str(run_dir), "trainer.max_steps=-1"])
    assert_same_end(run_dir, trained(*options, experiment=experiment))


def test_the_generators_of_a_process_go_on_where_they_were():
    module = SimpleNamespace(device=torch.device("cpu"), train_metrics=MetricCollection({}))

    def draw() -> tuple:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    state = process_state(module)
    drawn = draw()
    assert draw() != drawn
    restore(module, state)
    assert draw() == drawn


def test_a_stop_waits_for_a_validation_within_the_epoch(trained, tmp_path):
    """The checkpoint is written before it, and would know nothing of it."""
    run_dir = run(tmp_path / "run", *VALIDATED, "trainer.max_steps=10")
    assert load(run_dir)["global_step"] == 11
    train.main(["--resume", str(run_dir), "trainer.max_steps=-1"])
    assert_same_end(run_dir, trained(*VALIDATED))


def test_a_signal_stops_at_the_end_of_the_step_under_way(trained, tmp_path, add_callback, capsys):
    """In the middle of a window of accumulated gradients, whose step is taken."""

    class Signal(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if (trainer.current_epoch, batch_idx) == (1, 2):
                os.kill(os.getpid(), signal.SIGTERM)

    remove = add_callback(Signal())
    with pytest.raises(SystemExit) as exit_:
        run(tmp_path / "run", *MIXED_WINDOWS)
    remove()
    assert exit_.value.code == 130
    told = capsys.readouterr().err.strip().splitlines()
    assert "stopping at the end of this step" in told[0]
    assert told[-1].endswith(f"to carry on: python train.py --resume {tmp_path / 'run'}")
    assert load(tmp_path / "run")["global_step"] == BATCHES + 2
    train.main(["--resume", str(tmp_path / "run")])
    assert_same_end(tmp_path / "run", trained(*MIXED_WINDOWS))


OF_A_GROUP = """
import os, sys
import train
from lightning import Callback
from lightning_modules import experiment

class Signal(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 1:
            os.system(f"kill -TERM -{os.getpgrp()}")  # from another process

callbacks = experiment.callbacks
experiment.callbacks = lambda config: [Signal(), *callbacks(config)]
train.main(sys.argv[1:])
"""


def test_a_signal_of_the_process_group_leaves_the_workers(tmp_path):
    """As of ``timeout`` or a scheduler."""
    script, run_dir = tmp_path / "script.py", tmp_path / "run"
    script.write_text(OF_A_GROUP)
    command = [sys.executable, str(script), *DIGITS, *WORKERS, "tracker=null", f"run_dir={run_dir}"]
    ended = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    assert ended.returncode == 130 and load(run_dir)["global_step"] == 2, ended.stderr[-2000:]
    assert "to carry on" in ended.stderr and "Traceback" not in ended.stderr


def test_a_second_signal_stops_at_once_with_the_last_checkpoint(trained, tmp_path, add_callback):
    class Signals(Callback):
        def on_validation_batch_start(self, trainer, *arguments):
            if trainer.current_epoch == 1 and not trainer.sanity_checking:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    remove = add_callback(Signals())
    with pytest.raises(SystemExit) as exit_:
        run(tmp_path / "run")
    remove()
    assert exit_.value.code == 130
    assert load(tmp_path / "run")["global_step"] == BATCHES
    train.main(["--resume", str(tmp_path / "run")])
    assert_same_end(tmp_path / "run", trained())


def test_handlers_of_signals_are_put_back(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(tmp_path / "run", "trainer.max_epochs=1", "tracker=null")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_max_time_counts_for_each_start(trained, tmp_path, add_callback, monkeypatch, capsys):
    """By a clock that a step takes a minute of: four steps a start."""

    class Clock(Callback):
        minutes = 0

        def on_train_batch_start(self, *arguments):
            self.minutes += 1

    clock = Clock()
    add_callback(clock)
    started = {}
    monkeypatch.setattr(
        Timer, "on_train_start", lambda self, *arguments: started.update({self: clock.minutes})
    )
    monkeypatch.setattr(
        Timer, "time_elapsed", lambda self, stage=None: 60 * (clock.minutes - started[self])
    )
    run_dir = run(tmp_path / "run", "trainer.max_time=00:00:04:00")
    assert load(run_dir)["global_step"] == 4
    told = capsys.readouterr().out.strip().splitlines()[-1]
    assert told.startswith("trainer.max_time=00:00:04:00 ended the run at 44% of its training")
    assert told.endswith(f"to carry on: python train.py --resume {run_dir}")
    for steps in (8, 9):
        train.main(["--resume", str(run_dir)])
        assert load(run_dir)["global_step"] == steps
    assert_same_end(run_dir, trained())


def test_the_last_line_of_a_run_that_ends_early_says_where_the_cosine_is(tmp_path, capsys):
    run_dir = run(tmp_path / "run", "trainer.max_steps=5", "tracker=null", "model.warmup=0.0")
    told = capsys.readouterr().out.strip().splitlines()[-1]
    # (1 + cos(5/9 pi)) / 2 = 0.41
    assert told == (
        "trainer.max_steps=5 ended the run at 56% of its training, with the learning rate at 41% "
        f"of its peak; to carry on: python train.py --resume {run_dir} trainer.max_steps=MORE"
    )
    again = ["--resume", str(run_dir)]
    train.main(again)  # which has nothing to do
    assert load(run_dir)["global_step"] == 5
    assert "trainer.max_steps=5 ended" in capsys.readouterr().out.strip().splitlines()[-1]
    train.main([*again, "trainer.max_steps=-1"])
    assert "ended the run" not in capsys.readouterr().out
    assert load(run_dir)["epoch"] == EPOCHS - 1


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("data.batch_size=16", r"data.batch_size is 16; .* 32"),
        ("data.seed=3", r"data.seed is 3; .* 0"),
        ("data.train_size=128", r"number of training samples, is 128; .* 96"),
        ("trainer.accumulate_grad_batches=2", r"trainer.accumulate_grad_batches is 2; .* 1"),
        ("trainer.limit_train_batches=2", r"trainer.limit_train_batches is 2; .* 1.0"),
    ],
)
def test_what_the_order_of_an_epoch_depends_on_cannot_change_within_it(
    tmp_path_factory, capsys, option, named
):
    run_dir = stopped_within_an_epoch(tmp_path_factory)
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as exit_:
        train.main(["--resume", str(run_dir), "trainer.max_steps=-1", option])
    assert exit_.value.code == 2
    assert re.search(named, capsys.readouterr().err.strip().splitlines()[-1])
    for path, content in before.items():
        assert path.read_bytes() == content


STOPPED: list[Path] = []


def stopped_within_an_epoch(tmp_path_factory) -> Path:
    if not STOPPED:
        folder = tmp_path_factory.mktemp("stopped")
        STOPPED.append(run(folder, "trainer.max_steps=4", "tracker=null"))
    return STOPPED[0]


def test_two_processes_stop_at_the_same_step_and_go_on(tmp_path):
    """A signal that one of them gets ends both; each goes on with its own random numbers."""
    script = tmp_path / "script.py"
    script.write_text(SIGNALLED)
    options = [*DIGITS, "trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=16"]
    options += ["trainer.max_epochs=2", "data.val_size=8", "data.test_size=8"]
    options += ["data.pairs_size=2", "tracker.samples=2"]
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    ended = finish_two("train.py", *options, f"run_dir={whole}")
    assert [process.returncode for process in ended] == [0, 0], ended
    ended = finish_two(script, *options, f"run_dir={run_dir}")
    assert [process.returncode for process in ended] == [130, 130], ended
    assert load(run_dir)["global_step"] == 5
    assert len(rows(run_dir)) == 1
    ended = finish_two("train.py", "--resume", str(run_dir))
    assert [process.returncode for process in ended] == [0, 0], ended
    assert_same_end(run_dir, whole)


SIGNALLED = """
import os, signal, sys
import train
from lightning import Callback
from lightning_modules import experiment

class Signal(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx, trainer.global_rank) == (1, 1, 1):
            os.kill(os.getpid(), signal.SIGTERM)

original = experiment.callbacks
experiment.callbacks = lambda config: [Signal(), *original(config)]
train.main(sys.argv[1:])
"""
