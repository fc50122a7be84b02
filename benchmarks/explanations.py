"""What an explanation costs, in forward passes, and how that grows."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import timm
import torch
from torch import Tensor, nn

import relprop
from benchmarks import models
from benchmarks.measure import peak_memory, progress, seconds
from benchmarks.table import Table
from relprop.batching import Batch, measure_sample

# Bytes: what needs more is explained in parts, max_memory=LIMIT.
LIMIT = torch.cuda.mem_get_info()[0] * 4 // 5 if models.DEVICE == "cuda" else 8 * 2**30


def in_parts(model: nn.Module, x: Tensor | dict[str, Tensor], batch: int) -> dict[str, int]:
    """The options that keep an explanation of this batch below LIMIT."""
    return {"max_memory": LIMIT} if batch * measure_sample(model, Batch(x)) > LIMIT else {}


def rows_of(methods: Iterable[str]) -> dict[str, tuple[str, dict]]:
    """What is measured for these methods: row of the table -> method, options."""
    rows = {}
    for method in methods:
        rows[method] = (method, {})
        if method == "transformer_attribution":
            rows["the same, precision=bf16"] = (method, {"precision": "bf16"})
    return rows


def by_method(
    table: Table, names: list[str], methods: list[str], batches: list[int], rounds: int
) -> None:
    """Time over one ``no_grad`` forward pass; memory over autograd's forward and backward.

    Methods of texts are measured with models of texts alone.
    """
    for name in names:
        is_of_texts = name.startswith("bert")
        fitting = [method for method in methods if is_of_texts or method not in models.OF_TEXTS]
        for batch in batches:
            _by_method(table, name, fitting, batch, rounds)


def _by_method(table: Table, name: str, methods: list[str], batch: int, rounds: int) -> None:
    model, x, case = models.build(name), models.inputs(name, batch), f"{name}, batch {batch}"
    limit = in_parts(model, x, batch)
    runs = {"a forward pass": partial(models.forward, model, x)}
    if not limit:
        runs["a recording"] = partial(relprop.record, model, x)
    measured = rows_of(methods)
    for label, (method, options) in measured.items():
        runs[label] = partial(models.explain, model, x, method, **options, **limit)
    times = seconds(runs, rounds, case)
    forward = times.pop("a forward pass")
    yardstick, peaks = peak_memory(models.prepare_backward, name, batch), {}
    for label in progress(list(measured), f"{case}, memory"):
        method, options = measured[label]
        peaks[label] = peak_memory(models.prepare_explain, name, batch, method, options | limit)
    parts = f"max_memory={LIMIT / 2**30:.0f} GiB" if limit else ""
    table.section(
        f"{case}, over a forward pass; memory over autograd's forward and backward", parts
    )
    table.row("a forward pass", forward)
    for label, taken in times.items():
        table.row(label, taken, forward, (peaks[label], yardstick) if label in peaks else None)


def growth(table: Table, rounds: int) -> None:
    """With tokens, depth and batch, the paper's method, a small ViT; and with classes."""
    cases = [(f"{side}x{side} px", {"img_size": side}, 4) for side in (112, 224, 336)]
    cases += [(f"{depth} blocks", {"depth": depth}, 4) for depth in (6, 12, 24)]
    cases += [(f"batch {batch}", {}, batch) for batch in (1, 4, 16)]
    table.section("transformer_attribution, DeiT-Tiny, over a forward pass")
    for label, options, batch in cases:
        torch.manual_seed(0)
        model = timm.create_model("deit_tiny_patch16_224", **options).to(models.DEVICE).eval()
        side = options.get("img_size", 224)
        x = torch.randn(batch, 3, side, side, device=models.DEVICE)
        runs = {
            "forward": partial(models.forward, model, x),
            "explain": partial(models.explain, model, x, "transformer_attribution"),
        }
        times = seconds(runs, rounds, label)
        table.row(label, times["explain"], times["forward"])
    for name in ("deit_tiny", "vit_base"):
        further_classes(table, name, rounds)


def further_classes(table: Table, name: str, rounds: int) -> None:
    """Several classes of one image from one recording: what a class adds to the first."""
    model, x = models.build(name), models.inputs(name, 1)
    runs = {"forward": partial(models.forward, model, x)}
    for classes in (1, 2, 10):
        runs[classes] = partial(models.explain_classes, model, x, classes)
    times = seconds(runs, rounds, f"classes of one image, {name}")
    table.section(f"classes of one image, {name}, over a forward pass")
    one, forward = times[1], times.pop("forward")
    for classes, taken in times.items():
        table.row(f"classes: {classes}", taken, forward)
        if classes > 1:
            added = [(t - first) / (classes - 1) for t, first in zip(taken, one, strict=True)]
            table.row(f"a further class of {classes}", added, forward)
