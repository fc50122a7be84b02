"""What goes wrong while training, and what is left when it has."""

import ctypes
import errno
import os
import shutil
import signal
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from PIL import Image

import explain
import relprop
import train
from lightning_modules import ViTClassifier, experiment
from lightning_modules.callbacks import RelevanceTracker
from tests.helpers.processes import Started
from tests.helpers.runs import DIGITS, EPOCHS, ONE_EPOCH, assert_identical, load, rows, run


@pytest.fixture
def poison(monkeypatch):
    """Makes the loss of one batch of one epoch infinite."""

    def poison(epoch, batch):
        step = ViTClassifier.training_step

        def poisoned(self, batch_, batch_idx):
            loss = step(self, batch_, batch_idx)
            return loss * torch.inf if (self.current_epoch, batch_idx) == (epoch, batch) else loss

        monkeypatch.setattr(ViTClassifier, "training_step", poisoned)

    return poison


def test_a_gradient_that_is_no_number_stops_training(tmp_path, poison, capsys):
    poison(epoch=1, batch=2)
    with pytest.raises(SystemExit) as exit_:
        run(tmp_path / "run")
    assert exit_.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "step 5 (epoch 1, batch 2)" in message and "before-nonfinite.ckpt" in message
    kept = load(tmp_path / "run", "before-nonfinite")
    assert kept["global_step"] == 5
    assert all(value.isfinite().all() for value in kept["state_dict"].values())
    assert load(tmp_path / "run")["epoch"] == 0


def test_or_is_skipped(tmp_path, poison):
    poison(epoch=1, batch=2)
    with pytest.warns(UserWarning, match=r"step 5 \(epoch 1, batch 2\).*skipped"):
        run(tmp_path / "run", "on_nonfinite=skip", "tracker=null")
    assert len(rows(tmp_path / "run")) == EPOCHS
    weights = load(tmp_path / "run")["state_dict"]
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_cleanly_and_says_how_to_carry_on(tmp_path, number):
    run_dir = tmp_path / "run"
    slow = [*DIGITS, f"run_dir={run_dir}", "trainer.max_epochs=500", "tracker=null"]
    started = Started("train.py", *slow)
    while not (run_dir / "checkpoints" / "last.ckpt").is_file():
        assert started.process.exitcode is None, started.end().stderr
        time.sleep(0.05)
    os.kill(started.process.pid, number)
    ended = started.end(timeout=120)
    errors = ended.stderr
    assert ended.returncode == 130, errors
    assert f"to carry on: python train.py --resume {run_dir}" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    reached = load(run_dir)["epoch"]
    train.main(["--resume", str(run_dir), f"trainer.max_epochs={reached + 2}"])
    assert load(run_dir)["epoch"] == reached + 1


def test_a_full_disk_is_told_and_leaves_no_half_checkpoint(trained, tmp_path, monkeypatch, capsys):
    save, calls = torch.save, []

    def full(checkpoint, file):
        calls.append(file)
        if len(calls) > 2:  # best and last of the first epoch still fit
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save(checkpoint, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(SystemExit) as exit_:
        run(tmp_path / "run")
    assert exit_.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "No space left on device" in message and "--resume" in message
    monkeypatch.undo()
    assert not list((tmp_path / "run").rglob("*.partial"))
    train.main(["--resume", str(tmp_path / "run")])
    assert_identical(load(tmp_path / "run")["state_dict"], load(trained())["state_dict"])


def test_a_run_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as exit_:
        run(tmp_path / "file" / "run")
    assert exit_.value.code == 2
    assert "Not a directory" in capsys.readouterr().err.strip().splitlines()[-1]


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@contextmanager
def unprivileged():
    """Root may write anywhere: the capability that says so (`capabilities(7)`) is put aside.

    Root stays the owner of all that it needs to read, which another user may not be allowed to.
    """
    libc, overrides = ctypes.CDLL(None), 1 << 1  # CAP_DAC_OVERRIDE
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; the upper halves
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    sets[0] = effective & ~overrides
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("resumed", [False, True])
def test_a_read_only_run_folder(trained, resumed, capsys):
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        shutil.copytree(trained("trainer.max_epochs=1"), run_dir)
        before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        other = [*DIGITS, f"run_dir={Path(folder) / 'other'}"]
        with unprivileged(), pytest.raises(SystemExit) as exit_:
            train.main(["--resume", str(run_dir), "trainer.max_epochs=2"] if resumed else other)
        assert exit_.value.code == 2
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert "Permission denied" in message and folder in message
        assert before == {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o755)


@pytest.mark.usefixtures("few_draws")
def test_what_is_read_stays_as_it_is(trained, tmp_path):
    """The run, and the pictures: explained and scored."""
    run_dir = shutil.copytree(trained("trainer.max_epochs=1"), tmp_path / "run")
    for i in range(3):
        Image.new("RGB", (40, 30), (90 * i, 0, 0)).save(tmp_path / f"{i}.png")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    of_run = ["--checkpoint", str(run_dir), "--output", str(tmp_path / "output"), "--method", "all"]
    explain.main([*of_run, "--input", *map(str, tmp_path.glob("*.png"))])
    explain.main(["evaluate", *of_run, "--protocol", "segmentation", "--limit", "3"])
    assert (tmp_path / "output" / "scores.json").is_file()
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("content", ["hostile", "truncated", "flipped", "text"])
def test_a_checkpoint_to_resume_from_is_data(trained, tmp_path, capsys, content):
    run_dir, trap = shutil.copytree(trained(*ONE_EPOCH), tmp_path / "run"), tmp_path / "trap"
    last = run_dir / "checkpoints" / "last.ckpt"
    if content == "hostile":
        torch.save({"global_step": Hostile(str(trap))}, last)
    else:
        whole = last.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1  # of a weight
        last.write_bytes(
            {"truncated": whole[:5000], "flipped": bytes(flipped), "text": b"hello"}[content]
        )
    before = last.read_bytes()
    with pytest.raises(SystemExit) as exit_:
        train.main(["--resume", str(run_dir), "trainer.max_epochs=2"])
    assert exit_.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(last) in message and "accepted: a checkpoint" in message
    assert not trap.exists() and last.read_bytes() == before


def test_an_exception_in_a_callback_is_not_hidden(tmp_path, monkeypatch):
    class Broken(Callback):
        def on_train_batch_end(self, *args):
            raise ZeroDivisionError

    chosen = experiment.callbacks
    monkeypatch.setattr(experiment, "callbacks", lambda config: [Broken(), *chosen(config)])
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "run")


def test_a_sharded_model_is_refused_with_the_reason(tmp_path):
    strategy = FSDPStrategy.__new__(FSDPStrategy)  # itself it wants a GPU
    with pytest.raises(MisconfigurationException, match="FSDPStrategy no process has the whole"):
        tracker = RelevanceTracker(run_dir=str(tmp_path))
        tracker.on_fit_start(SimpleNamespace(strategy=strategy), None)


def test_relevance_that_is_no_number_is_named_by_its_operation(tiny_vit, images):
    trace = relprop.record(tiny_vit(), images)
    target = trace.logits.argmax(dim=1)
    assert trace.not_finite(target) is None

    def broken(relevance, output, *args, eps):
        return relprop.rules.PAPER["matmul"](relevance, output, *args, eps=eps)[0] / 0, None

    rules = {**relprop.rules.PAPER, "matmul": broken}
    assert trace.not_finite(target, rules).startswith("the relevance rule of 'matmul' to [3, 3, 17")
    assert trace.not_finite(target) is None


@pytest.mark.parametrize("experiment", ["digits", "reviews"])
def test_training_goes_on_with_relevance_that_is_no_number(
    trained, tmp_path, monkeypatch, experiment
):
    """And what is trained is the same."""
    rule = relprop.rules.PAPER["matmul"]

    def broken(relevance, *args, eps):
        return tuple(r / 0 for r in rule(relevance, *args, eps=eps))

    whole = trained("tracker=null", experiment=experiment)
    monkeypatch.setitem(relprop.rules.PAPER, "matmul", broken)
    with pytest.warns(UserWarning, match="epoch 1: relevance is not finite, first in .*'matmul'"):
        run(tmp_path / "run", experiment=experiment)
    assert len(rows(tmp_path / "run")) == EPOCHS
    assert_identical(load(tmp_path / "run")["state_dict"], load(whole)["state_dict"])
