"""What only new interpreters show, and the processes that libraries start. pytest tests/soak"""

import os
import subprocess
import sys

from tests.commands.test_import import DATA, MODULE
from tests.commands.test_terminal import LIBRARIES, OPTIONS, SCREEN
from tests.helpers.processes import ROOT
from tests.helpers.runs import DIGITS, ONE_EPOCH
from tests.training.test_processes import failing_to_score


def python(*command: str, cwd=ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a new interpreter, and those that it starts, have printed."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_torchrun_ends_a_process_that_waits_for_one_that_has_failed(trained, tmp_path):
    script = failing_to_score(trained(*ONE_EPOCH), tmp_path)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    ended = python(*torchrun, str(script))
    assert ended.returncode != 0
    assert "ZeroDivisionError: of rank 1" in ended.stderr
    assert not (tmp_path / "scores" / "scores.json").exists()


def test_the_process_that_lightning_starts_imports_the_module(tmp_path):
    (tmp_path / "mine_all.py").write_text(MODULE)
    words = [f"--config={ROOT / 'configs' / 'vit_digits.yaml'}", *DIGITS, *DATA]
    words = [word for word in words if word != "--config=configs/vit_digits.yaml"]
    words += ["run_dir=run", "data.kind=mine", "trainer.max_steps=1", "data.batch_size=16"]
    words += ["tracker.method=mine_of_all", "trainer.devices=2", "trainer.strategy=ddp"]
    command = [str(ROOT / "train.py"), "--import", "mine_all", *words]
    ended = python(*command, cwd=tmp_path, PYTHONPATH="")
    assert ended.returncode == 0, ended.stderr
    assert "data        mine: 64 training" in ended.stdout


def test_a_pipe_gets_plain_lines_from_the_first_import_on(tmp_path):
    ended = python("train.py", *OPTIONS, f"run_dir={tmp_path / 'run'}", **SCREEN)
    assert ended.returncode == 0, ended.stderr
    for line in (*ended.stdout.split("\n"), *ended.stderr.split("\n")):
        assert line.isprintable(), repr(line)
    (line,) = ended.stderr.splitlines()
    assert line.startswith("train.py: warning: The number of training batches (3) is smaller")
    assert not [words for words in LIBRARIES if words in ended.stdout + ended.stderr]
