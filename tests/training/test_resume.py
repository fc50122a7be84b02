"""Resume: a run that was stopped ends as one that never was, to the bit, on images and on texts."""

import time
from pathlib import Path

import pytest
import torch
from lightning import Callback

import train
from lightning_modules import experiment as running
from tests.helpers.processes import finish
from tests.helpers.runs import (
    DIGITS,
    EPOCHS,
    EXPERIMENTS,
    assert_identical,
    assert_same_end,
    curve,
    load,
    rows,
    run,
)


@pytest.fixture(scope="module", params=EXPERIMENTS)
def experiment(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def undisturbed(experiment, trained) -> Path:
    return trained(experiment=experiment)


@pytest.fixture
def stop_in_epoch(monkeypatch):
    """Ends training as Ctrl-C does, in the middle of an epoch."""

    class Stop(Callback):
        def __init__(self, epoch):
            self.epoch = epoch

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.current_epoch == self.epoch and batch_idx == 1:
                raise KeyboardInterrupt

    def stop(epoch):
        original = running.callbacks
        monkeypatch.setattr(running, "callbacks", lambda config: [Stop(epoch), *original(config)])
        return lambda: monkeypatch.setattr(running, "callbacks", original)

    return stop


def test_a_resumed_run_is_bit_identical(experiment, undisturbed, tmp_path, stop_in_epoch):
    check_resume(experiment, undisturbed, tmp_path, stop_in_epoch, epoch=1)


def check_resume(experiment: str, undisturbed: Path, tmp_path: Path, stop_in_epoch, epoch) -> None:
    go_on = stop_in_epoch(epoch)
    with pytest.raises(SystemExit):
        run(tmp_path / "run", experiment=experiment)
    go_on()
    train.main(["--resume", str(tmp_path / "run")])
    assert_same_end(tmp_path / "run", undisturbed)


def test_a_run_resumed_within_a_second_has_its_curves(tmp_path, stop_in_epoch):
    """TensorBoard reads event files by name: the second they were made in, then the host."""
    go_on = stop_in_epoch(1)
    with pytest.raises(SystemExit):
        run(tmp_path / "run")
    (events,) = (tmp_path / "run").glob("events.out.tfevents.*")
    time.sleep(1 - time.time() % 1)  # a second begins: what comes next has all of it
    events.rename(events.with_name(f"events.out.tfevents.{int(time.time())}.zzz.1.0"))
    go_on()
    train.main(["--resume", str(tmp_path / "run")])
    assert len(curve(tmp_path / "run", "val/accuracy")) == EPOCHS


def test_the_tracker_does_not_touch_training(experiment, undisturbed, trained):
    without = trained("tracker=null", experiment=experiment)
    assert_identical(load(without)["state_dict"], load(undisturbed)["state_dict"])
    assert_identical(load(without)["optimizer_states"], load(undisturbed)["optimizer_states"])


def test_a_run_out_of_patience_stops_and_stays_stopped(tmp_path):
    """With a learning rate of 0 accuracy cannot rise after the first epoch."""
    run(tmp_path / "run", "model.lr=0.0", "patience=1", "trainer.max_epochs=9")
    assert len(rows(tmp_path / "run")) == 2
    train.main(["--resume", str(tmp_path / "run")])
    assert len(rows(tmp_path / "run")) == 2
    train.main(["--resume", str(tmp_path / "run"), "patience=2"])
    assert len(rows(tmp_path / "run")) == 3


KILLED_IN = {  # the end of what is its middle
    "a step": "lightning_modules.ViTClassifier.training_step",
    "validation": "lightning_modules.ViTClassifier.validation_step",
    "the tracker": "lightning_modules.callbacks.RelevanceTracker._publish",
    "the table of metrics": "lightning_modules.callbacks.MetricsTable.on_train_epoch_end",
}


def test_a_run_killed_in_each_of_its_parts(trained, tmp_path):
    """SIGKILL in the second epoch, once in each part, resumed each time."""
    arguments, script = [*DIGITS, f"run_dir={tmp_path / 'run'}"], tmp_path / "script.py"
    for part, place in KILLED_IN.items():
        owner, name = place.rsplit(".", 1)
        script.write_text(f"""
import os, pkgutil, signal, train
owner = pkgutil.resolve_name({owner!r})
function = owner.{name}
def then_killed(self, *arguments):
    done = function(self, *arguments)
    trainer = getattr(self, "trainer", arguments[0])
    if trainer.current_epoch == 1 and not trainer.sanity_checking:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
owner.{name} = then_killed
train.main({arguments!r})
""")
        ended = finish(script)
        assert ended.returncode == -9, (part, ended.stderr[-2000:])
        assert load(tmp_path / "run")["epoch"] == 0, part
        arguments = ["--resume", str(tmp_path / "run")]
    train.main(arguments)
    assert_same_end(tmp_path / "run", trained())


def test_a_kill_while_saving_leaves_a_checkpoint_that_loads(tmp_path):
    """SIGKILL when half of the second epoch's checkpoint is on the disk."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import os, signal, sys, torch
import train
saved, save = 0, torch.save
def kill_half_way(checkpoint, file):
    global saved
    saved += 1
    if saved <= 3:  # best and last of epoch 0, then one more
        return save(checkpoint, file)
    file.write(b"PK" * 1000); file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = kill_half_way
train.main({[*DIGITS, f"run_dir={tmp_path / 'run'}", "tracker=null"]!r})
""")
    ended = finish(script)
    assert ended.returncode == -9, ended.stderr[-2000:]
    for checkpoint in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        assert torch.load(checkpoint, weights_only=True)["state_dict"]
    train.main(["--resume", str(tmp_path / "run")])
    assert load(tmp_path / "run")["epoch"] == EPOCHS - 1
