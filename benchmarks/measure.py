"""Ratios of times and of memory, measured side by side in one run."""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table


def wait() -> None:
    """Until a GPU, if there is one, has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def progress(turns: Sequence, what: str) -> Iterable:
    """The turns, with a bar on a terminal; drawn once a second, so as not to disturb them."""
    return track(
        turns,
        description=what,
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=1,
        disable=not sys.stderr.isatty(),
    )


def seconds(
    runs: Mapping[str, Callable[[], object]], rounds: int, what: str
) -> dict[str, list[float]]:
    """Of each run, ``rounds`` times; the runs take turns, so that whatever else the machine does
    falls on all of them."""
    found = {name: [] for name in runs}
    for name in progress(list(runs) * rounds, what):
        runs[name]()  # untimed: the run before it has left memory to itself
        wait()
        started = time.perf_counter()
        runs[name]()
        wait()
        found[name].append(time.perf_counter() - started)
    return found


def ratios(times: list[float], of: list[float]) -> tuple[float, float, float]:
    """Median and quartiles of the ratios, round by round."""
    each = [time / other for time, other in zip(times, of, strict=True)]
    if len(each) < 2:
        return each[0], each[0], each[0]
    low, middle, high = statistics.quantiles(each, n=4, method="inclusive")
    return middle, low, high


def show(ratio: tuple[float, float, float], digits: int = 2) -> str:
    return f"{ratio[0]:.{digits}f}  ({ratio[1]:.{digits}f} - {ratio[2]:.{digits}f})"


def milliseconds(times: list[float]) -> str:
    return f"{1e3 * statistics.median(times):,.1f}"


def peak_memory(prepare: Callable[..., Callable[[], object]], *arguments) -> int:
    """Bytes by which memory grows at most while what ``prepare`` returns runs, once.

    In a process of its own, so that nothing freed before is used again.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (prepare, *arguments))


def _peak(prepare: Callable[..., Callable[[], object]], *arguments) -> int:
    run = prepare(*arguments)
    peak = watch_memory()
    run()
    return peak()


def watch_memory() -> Callable[[], int]:
    """What is returned tells by how many bytes memory (a GPU's, if there is one) has grown at most
    since this call."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return lambda: torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts from here
    before = _status("VmRSS")
    return lambda: _status("VmHWM") - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(name)


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
