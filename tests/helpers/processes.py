"""Processes of their own, forked from one that has imported the libraries once.

Each test process starts one server, Python's own fork server, when a test first needs a process.
A forked process has the libraries below, and nothing of the product or of what a test has changed.
"""

import multiprocessing
import os
import runpy
import signal
import site
import socket
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
LIBRARIES = [  # whose import takes most of the time of a short command
    "h5py",
    "lightning.pytorch.loggers",
    "matplotlib.figure",
    "omegaconf",
    "sklearn.datasets",
    "sklearn.model_selection",
    "timm.optim",
    "torch.utils.tensorboard",
    "torchvision.transforms.v2",
    "transformers.models.bert.modeling_bert",
]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # as in the tests: rounding depends on it
OURS = {"PYTHONPATH": str(ROOT)}  # a script in another folder imports train.py as well


class Started:
    """``python SCRIPT WORDS``, which may still run; it prints into files, or in a terminal."""

    def __init__(
        self,
        script: Path | str,
        *words: str,
        cwd: Path = ROOT,
        terminal: str | None = None,
        **environment: str,
    ):
        self.command = [str(ROOT / script), *words]
        self.folder = tempfile.TemporaryDirectory()
        self.printed = [Path(self.folder.name, name) for name in ("out", "err")]
        for path in self.printed:
            path.touch()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(LIBRARIES)
        with patch.dict(os.environ, ONE_THREAD):  # read when a library is loaded
            forkserver.ensure_running()
        printed = [Path(terminal)] * 2 if terminal else self.printed
        words = (self.command, printed, cwd, os.environ | ONE_THREAD | OURS | environment)
        self.process = context.Process(target=become, args=words)
        self.process.start()

    def end(self, timeout: float = 300) -> CompletedProcess[str]:
        """What it has printed, and its exit code; one that hangs is killed, and fails the test."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise TimeoutExpired(self.command, timeout)
        printed = [path.read_text() for path in self.printed]
        self.folder.cleanup()
        return CompletedProcess(self.command, self.process.exitcode, *printed)


def finish(script: Path | str, *words: str, **options) -> CompletedProcess[str]:
    """``python SCRIPT WORDS``, when it has ended; options as of :class:`Started`."""
    return Started(script, *words, **options).end()


def finish_two(script: Path | str, *words: str, **options) -> list[CompletedProcess[str]]:
    """Two processes that know of each other, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    of_both = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    of_both |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "a"}
    of_both |= options
    both = [Started(script, *words, RANK=rank, LOCAL_RANK=rank, **of_both) for rank in "01"]
    return [process.end() for process in both]


def become(command: list[str], printed: list[Path], cwd: Path, environment: dict) -> None:
    """Run a script in this process as a new interpreter would."""
    os.setsid()  # with what it starts, it can be killed at once
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for descriptor, path in enumerate(printed, 1):
        file = os.open(path, os.O_WRONLY)
        os.dup2(file, descriptor)
        os.close(file)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    multiprocessing.set_start_method(None, force=True)  # of its workers: Python's own, as elsewhere
    sys.argv = command
    others = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    installed = (sys.prefix, sys.base_prefix, site.getusersitepackages())
    libraries = [entry for entry in sys.path if entry.startswith(installed)]
    sys.path[:] = [str(Path(command[0]).parent), *others, *libraries]
    runpy.run_path(command[0], run_name="__main__")
