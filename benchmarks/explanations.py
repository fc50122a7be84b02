"""What an explanation costs, in forward passes, and how that grows."""

from __future__ import annotations

from functools import partial

import timm
import torch

import relprop
from benchmarks import models
from benchmarks.measure import milliseconds, peak_memory, print_table, ratios, seconds, show
from relprop.memory import memory_of_sample

METHODS = {
    "transformer_attribution": ("transformer_attribution", {}),
    "the same, precision=bf16": ("transformer_attribution", {"precision": "bf16"}),
    "generic_attention": ("generic_attention", {}),
    "rollout": ("rollout", {}),
    "lrp": ("lrp", {}),
}


LIMIT = 8 * 2**30  # bytes: what needs more is explained in parts, max_memory=LIMIT


def by_method(names: list[str], batches: list[int], rounds: int, memory: bool) -> None:
    """Time over one ``no_grad`` forward pass; memory over autograd's forward and backward."""
    for name in names:
        for batch in batches:
            model, x = models.build(name), models.inputs(name, batch)
            too_large = batch * memory_of_sample(model, x) > LIMIT
            limit = {"max_memory": LIMIT} if too_large else {}
            runs = {"forward": lambda m=model, x=x: models.forward(m, x)}
            for label, (method, options) in METHODS.items():
                runs[label] = partial(models.explain, model, x, method, **options, **limit)
            times = seconds(runs, rounds)
            yardstick = peak_memory(models.prepare_backward, name, batch) if memory else 0
            rows = []
            for label, (method, options) in METHODS.items():
                took = "-"
                if memory:
                    peak = peak_memory(models.prepare_explain, name, batch, method, options | limit)
                    took = f"{peak / 2**20:,.0f} MiB, {peak / yardstick:.2f}"
                ratio = show(ratios(times[label], times["forward"]))
                rows.append([label, milliseconds(times[label]), ratio, took])
            forward = milliseconds(times["forward"])
            parts = f", max_memory={LIMIT / 2**30:g} GiB" if too_large else ""
            print_table(
                f"{name}, batch {batch}{parts}: a forward pass takes {forward} ms",
                ["method", "ms", "forward passes (quartiles)", "peak memory, over backward's"],
                rows,
            )


def growth(rounds: int) -> None:
    """With tokens, depth, batch and the number of classes; the paper's method, a small ViT."""
    small = {"model_name": "deit_tiny_patch16_224", "num_classes": 100}
    cases = [(f"{side}x{side} px", {"img_size": side}, 4, 1) for side in (112, 224, 336)]
    cases += [(f"{depth} blocks", {"depth": depth}, 4, 1) for depth in (6, 12, 24)]
    cases += [(f"batch {batch}", {}, batch, 1) for batch in (1, 4, 16)]
    cases += [(f"{classes} classes of one image", {}, 1, classes) for classes in (1, 2, 10, 50)]
    rows, one_class = [], 0.0
    for label, options, batch, classes in cases:
        torch.manual_seed(0)
        model = timm.create_model(**small, **options).to(models.DEVICE).eval()
        side = options.get("img_size", 224)
        x = torch.randn(batch, 3, side, side, device=models.DEVICE)

        def explain(model=model, x=x, classes=classes):
            return relprop.explain_classes(relprop.record(model, x), range(classes))

        runs = {"forward": lambda m=model, x=x: models.forward(m, x), "explain": explain}
        times = seconds(runs, rounds)
        ratio = ratios(times["explain"], times["forward"])
        if "classes" in label and classes == 1:
            one_class = ratio[0]
        further = f"{(ratio[0] - one_class) / (classes - 1):.2f}" if classes > 1 else "-"
        rows.append([label, milliseconds(times["explain"]), show(ratio), further])
    print_table(
        "growth: transformer_attribution, DeiT-Tiny",
        ["case", "ms", "forward passes (quartiles)", "a further class"],
        rows,
    )
