"""What a person reads in a terminal: our own lines, and not those of libraries."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from lightning_modules.utils.names import one_line

if TYPE_CHECKING:
    from rich.console import Console

RANKS = {"RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"}  # of several processes
PLAIN_WIDTH = 120  # columns of a table that goes to a file or a pipe

# Loggers whose news are not shown, only their warnings: advertisements, whether a GPU or a TPU is
# there, which checkpoint is restored, why fit has ended. Our own lines say what of it matters.
CHATTY = ("lightning", "lightning.pytorch", "lightning.fabric")
HIDDEN = {  # the beginnings of warnings that a user can do nothing about, and why
    r"Checkpoint directory .* exists and is not empty": "so it is in every run that is resumed",
    r".*isinstance\(treespec, LeafSpec\)": "between Lightning and torch",
    r"Detected call of `lr_scheduler\.step\(\)` before": "so it is after a step that is skipped",
    r".*does not have many workers": "small data are read fastest by the main process",
    r"Be aware that when using `ckpt_path`, callbacks": "a resume may leave out what it likes",
    r"Trying to infer the `batch_size` from an ambiguous": "the first dimension is what it finds",
    r"Metric `\w+` will save all targets and predictions": "two numbers a sample and class",
    r"No positive samples found in target, recall": "labels that a split lacks do not count",
    r"It is recommended to use `self\.log\(.*sync_dist": "the metrics synchronise themselves",
    r"There is a performance drop because .*batching rule": "torch has none of some gradients",
}


def say(message: object, file: TextIO | None = None) -> None:
    """Print a message on one line, at once, whatever names it holds and whatever ``file`` encodes.

    ``file``: standard output where it is None.
    """
    file = sys.stdout if file is None else file
    encoding = getattr(file, "encoding", None) or "utf-8"
    line = one_line(message).encode(encoding, "backslashreplace").decode(encoding)
    print(line, file=file, flush=True)


def tell(message: object) -> None:
    """Print on standard error what a user should know; of several processes the first alone."""
    if is_first_process():
        say(message, sys.stderr)


def is_first_process() -> bool:
    """True unless another of several processes writes what is written once."""
    if "lightning" not in sys.modules and not RANKS & os.environ.keys():
        return True
    from lightning.pytorch.utilities import rank_zero_only

    return rank_zero_only.rank == 0


def counted(number: int, thing: str) -> str:
    """As "1 epoch" or "2,000 epochs"."""
    return f"{number:,} {thing}" + "s" * (number != 1)


def console() -> Console:
    """Standard output, for tables: as wide as a terminal, or as PLAIN_WIDTH."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)


@contextmanager
def quiet(prog: str) -> Iterator[None]:
    """Within it, libraries show no news and none of the HIDDEN warnings; others are one line each.

    Afterwards filters, formats and levels are as they were before.
    """
    import lightning.pytorch  # noqa: F401 - it sets the levels of its loggers

    levels = {name: logging.getLogger(name).level for name in CHATTY}
    with warnings_on_one_line(prog):
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def warnings_on_one_line(prog: str) -> Iterator[None]:
    """Within it none of the HIDDEN warnings are shown, and others on one line each.

    Afterwards filters and formats are as they were before. It imports no library.
    """
    formatted = warnings.formatwarning

    def on_one_line(message, *arguments, **options) -> str:
        return f"{prog}: warning: {one_line(message)}\n"

    with warnings.catch_warnings():
        for beginning in HIDDEN:
            warnings.filterwarnings("ignore", beginning)
        warnings.formatwarning = on_one_line
        try:
            yield
        finally:
            warnings.formatwarning = formatted
