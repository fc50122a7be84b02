"""Explanations a second, and how much of the device's arithmetic they use."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import models
from benchmarks.explanations import in_parts, rows_of
from benchmarks.measure import peak_memory, seconds
from benchmarks.table import Table

MEASURED = rows_of(["transformer_attribution", "generic_attention", "attnlrp", "cp_lrp"])
REPLAYED = 16  # images; of more, launches take a small share, and every graph keeps its memory


def product_rate(side: int = 4096) -> float:
    """Floating point operations a second of a large float32 matrix product on this device."""
    a, b = (torch.randn(side, side, device=models.DEVICE) for _ in range(2))
    times = seconds({"product": lambda: a @ b}, 10, "matrix product")
    return 2 * side**3 / min(times["product"])


def throughput(table: Table, name: str, batches: list[int], rounds: int) -> None:
    """Images a second beside plain inference, memory, and the share of the product rate."""
    rate = product_rate()
    notes = f"a float32 matrix product: {rate / 1e9:,.0f} GFLOPS"
    table.section(f"{name}, over a forward pass, memory too", notes)
    for batch in batches:
        model, x = models.build(name), models.inputs(name, batch)
        limit = in_parts(model, x, batch)
        runs = {"a forward pass": partial(models.forward, model, x)}
        peaks = {"a forward pass": peak_memory(models.prepare_forward, name, batch)}
        for label, (method, options) in MEASURED.items():
            options = options | limit
            runs[label] = partial(models.explain, model, x, method, **options)
            peaks[label] = peak_memory(models.prepare_explain, name, batch, method, options)
        if models.DEVICE == "cuda" and batch <= REPLAYED:
            runs |= {f"{label}, replayed": as_graph(run) for label, run in runs.items()}
        times = seconds(runs, rounds, f"{name}, batch {batch}")
        for label, taken in times.items():
            notes = f"{batch / statistics.median(taken):,.1f} images a second"
            if label in peaks:
                with FlopCounterMode(display=False) as counter:
                    runs[label]()
                share = counter.get_total_flops() / statistics.median(taken) / rate
                notes += f", {share:.0%} of that rate"
            memory = (peaks[label], peaks["a forward pass"]) if label in peaks else None
            table.row(f"batch {batch}, {label}", taken, times["a forward pass"], memory, notes)


def as_graph(run: Callable[[], object]) -> Callable[[], None]:
    """The same kernels as one CUDA graph: what is left is their own time, not that of launches."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is made once is made before, beside other work
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay
