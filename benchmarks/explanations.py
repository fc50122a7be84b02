"""What an explanation costs, in forward passes, and how that grows."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import timm
import torch
from torch import Tensor, nn

from benchmarks import models
from benchmarks.measure import (
    milliseconds,
    peak_memory,
    print_table,
    progress,
    ratios,
    seconds,
    show,
)
from relprop.memory import measure_sample

# Bytes: what needs more is explained in parts, max_memory=LIMIT.
LIMIT = torch.cuda.mem_get_info()[0] * 4 // 5 if models.DEVICE == "cuda" else 8 * 2**30


def in_parts(model: nn.Module, x: Tensor | dict[str, Tensor], batch: int) -> dict[str, int]:
    """The options that keep an explanation of this batch below LIMIT."""
    return {"max_memory": LIMIT} if batch * measure_sample(model, x) > LIMIT else {}


def rows_of(methods: Iterable[str]) -> dict[str, tuple[str, dict]]:
    """What is measured for these methods: row of a table -> method, options."""
    rows = {}
    for method in methods:
        rows[method] = (method, {})
        if method == "transformer_attribution":
            rows["the same, precision=bf16"] = (method, {"precision": "bf16"})
    return rows


def by_method(
    names: list[str], methods: list[str], batches: list[int], rounds: int, memory: bool
) -> None:
    """Time over one ``no_grad`` forward pass; memory over autograd's forward and backward."""
    for name in names:
        for batch in batches:
            model, x = models.build(name), models.inputs(name, batch)
            limit = in_parts(model, x, batch)
            runs = {"forward": lambda m=model, x=x: models.forward(m, x)}
            measured = rows_of(methods)
            for label, (method, options) in measured.items():
                runs[label] = partial(models.explain, model, x, method, **options, **limit)
            times = seconds(runs, rounds, f"{name}, batch {batch}")
            yardstick = peak_memory(models.prepare_backward, name, batch) if memory else 0
            rows = []
            for label in progress(list(measured), f"{name}, batch {batch}, memory"):
                method, options = measured[label]
                took = "-"
                if memory:
                    peak = peak_memory(models.prepare_explain, name, batch, method, options | limit)
                    took = f"{peak / 2**20:,.0f} MiB, {peak / yardstick:.2f}"
                ratio = show(ratios(times[label], times["forward"]))
                rows.append([label, milliseconds(times[label]), ratio, took])
            forward = milliseconds(times["forward"])
            parts = f", max_memory={LIMIT / 2**30:.0f} GiB" if limit else ""
            print_table(
                f"{name}, batch {batch}{parts}: a forward pass takes {forward} ms",
                ["method", "ms", "forward passes (quartiles)", "peak memory, over backward's"],
                rows,
            )


def growth(rounds: int) -> None:
    """With tokens, depth and batch, the paper's method, a small ViT; and with classes."""
    cases = [(f"{side}x{side} px", {"img_size": side}, 4) for side in (112, 224, 336)]
    cases += [(f"{depth} blocks", {"depth": depth}, 4) for depth in (6, 12, 24)]
    cases += [(f"batch {batch}", {}, batch) for batch in (1, 4, 16)]
    rows = []
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
        ratio = show(ratios(times["explain"], times["forward"]))
        rows.append([label, milliseconds(times["explain"]), ratio])
    print_table(
        "growth: transformer_attribution, DeiT-Tiny", ["case", "ms", "forward passes"], rows
    )
    for name in ("deit_tiny", "vit_base"):
        further_classes(name, rounds)


def further_classes(name: str, rounds: int) -> None:
    """Several classes of one image from one recording: what a class adds to the first."""
    model, x = models.build(name), models.inputs(name, 1)
    runs = {"forward": partial(models.forward, model, x)}
    for classes in (1, 2, 10, 50):
        runs[classes] = partial(models.explain_classes, model, x, classes)
    times = seconds(runs, rounds, f"classes of one image, {name}")
    one, forward, rows = times[1], times.pop("forward"), []
    for classes, taken in times.items():
        added = [(t - first) / max(1, classes - 1) for t, first in zip(taken, one, strict=True)]
        further = show(ratios(added, forward)) if classes > 1 else "-"
        rows.append([str(classes), milliseconds(taken), show(ratios(taken, forward)), further])
    print_table(
        f"classes of one image, {name}: transformer_attribution",
        ["classes", "ms", "forward passes (quartiles)", "a further class"],
        rows,
    )
