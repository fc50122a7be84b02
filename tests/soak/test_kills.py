"""A run that is killed twenty times ends as one that never was. Minutes: pytest tests/soak"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import train
from tests.helpers.runs import DIGITS, assert_identical, curve, load, rows, run

ROOT = Path(__file__).parents[2]
KILLS, EPOCHS = 20, 100


def start(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as in tests: rounding depends on it
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_twenty_kills(tmp_path):
    epochs = f"trainer.max_epochs={EPOCHS}"
    whole = run(tmp_path / "whole", epochs)
    moment = random.Random(0)
    killed = tmp_path / "run"
    arguments = [*DIGITS, epochs, f"run_dir={killed}"]
    for _ in range(KILLS):
        before = set(killed.glob("events*"))
        process = start(*arguments)
        # From the first event on it trains; a second is some epochs.
        while not set(killed.glob("events*")) - before:
            assert process.poll() is None, "training ended before it was killed"
            time.sleep(0.01)
        time.sleep(moment.uniform(0, 1.2))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run was over before the last kill"
        arguments = ["--resume", str(killed)]
    reached = load(killed)["epoch"]
    train.main(arguments)
    print(f"after {KILLS} kills in epoch {reached} of {EPOCHS}")
    assert_identical(load(killed)["state_dict"], load(whole)["state_dict"])
    assert rows(killed) == rows(whole)
    for tag in ("train/loss", "val/accuracy", "relevance/drift", "relevance/mIoU"):
        assert curve(killed, tag) == curve(whole, tag), tag
    for picture in (whole / "explanations").glob("*.png"):
        assert (killed / "explanations" / picture.name).read_bytes() == picture.read_bytes()
