"""Times and memory, measured side by side in one run."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch.utils.benchmark import Timer


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
    falls on all of them. Each turn begins with two untimed runs of torch's Timer, for the run
    before it has left memory to itself."""
    threads = torch.get_num_threads()
    timers = {
        name: Timer("run()", globals={"run": runs[name]}, num_threads=threads) for name in runs
    }
    found = {name: [] for name in runs}
    for name in progress(list(runs) * rounds, what):
        found[name] += timers[name].timeit(1).times
    return found


def peak_memory(prepare: Callable[..., Callable[[], object]], *arguments) -> int:
    """Bytes by which memory grows at most while what ``prepare`` returns runs, once.

    In a process of its own, so that nothing freed before is used again; a GPU's allocator knows
    what is in use.
    """
    if torch.cuda.is_available():
        return _peak(prepare, *arguments)
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
