"""What a training step costs that has a loss on relevance maps as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import models
from benchmarks.measure import peak_memory, seconds
from benchmarks.table import Table
from lightning_modules import ViTClassifier
from lightning_modules.guidance import Guidance

NAME, SIDE = "deit_tiny_patch16_224", 224
GUIDED = {  # options of the section guidance, by what the table calls them
    "generic_attention, attention": {},
    "generic_attention, exact": {"differentiable": "exact"},
    "raw_attention": {"method": "raw_attention"},
    "rollout": {"method": "rollout"},
    "gradcam": {"method": "gradcam"},
    "input_gradient": {"method": "input_gradient"},
    "transformer_attribution, exact": {
        "method": "transformer_attribution",
        "differentiable": "exact",
    },
}
BY_SAMPLES = ("generic_attention, attention", "generic_attention, exact")


def classifier(**model_options) -> ViTClassifier:
    """DeiT-Tiny of 10 classes, random weights, in training."""
    torch.manual_seed(0)
    classes = [str(i) for i in range(10)]
    data = {"input_size": [3, SIDE, SIDE], "mean": [0.5] * 3, "std": [0.5] * 3}
    model = ViTClassifier(classes, data, NAME, model_options=model_options)
    return model.to(models.DEVICE).train()


def pictures(batch: int) -> dict[str, Tensor]:
    """Noise, of which the object is the upper left quarter."""
    mask = torch.zeros(batch, SIDE, SIDE, dtype=torch.bool)
    mask[:, : SIDE // 2, : SIDE // 2] = True
    found = {"image": models.inputs("deit_tiny", batch), "mask": mask}
    found["label"] = torch.arange(batch) % 10
    return {name: x.to(models.DEVICE) for name, x in found.items()}


def step(module: ViTClassifier, batch: dict[str, Tensor], guidance: Guidance | None) -> None:
    """Forward and backward pass of cross-entropy, and of the loss on maps beside it."""
    module.zero_grad()
    logits = module(batch)
    loss = module.task.loss(logits, batch["label"], training=True)
    if guidance is not None:
        loss = loss + guidance.of_samples(module, batch, logits.detach())[0].mean()
    loss.backward()


def prepare_step(batch: int, options: dict | None) -> Callable[[], None]:
    """A step with these options of guidance; None: a plain one."""
    guidance = None if options is None else Guidance(**options)
    return partial(step, classifier(), pictures(batch), guidance)


class AllModules(nullcontext):
    """Tells no modules apart; the hooks of torch's own tracker refuse the gradient of an input."""

    parents = ("Global",)


def products(run: Callable[[], object]) -> int:
    """Floating point operations of all matrix products."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = AllModules()
    with counter:
        run()
    return counter.get_total_flops()


def guided_steps(table: Table, rounds: int, samples: Sequence[int], batch: int = 16) -> None:
    """A guided step over a plain one, and its memory by the number of samples that are guided."""
    module, x, one = classifier(), pictures(batch), pictures(1)
    guided = {name: Guidance(**options) for name, options in GUIDED.items()}
    guided = {"a plain step": None} | guided
    runs = {name: partial(step, module, x, guidance) for name, guidance in guided.items()}
    # Those of a batch are as many times those of a sample.
    cost = {n: products(partial(step, module, one, guidance)) for n, guidance in guided.items()}
    times = seconds(runs, rounds, "guided steps")
    table.section(f"a guided step of DeiT-Tiny, batch {batch}, over a plain one")
    for name, taken in times.items():
        notes = f"matrix products: {cost[name] / cost['a plain step']:.2f}"
        table.row(name, taken, times["a plain step"], notes=notes)
    table.section(f"the same by guidance.samples of the batch of {batch}, over a plain step")
    plain = peak_memory(prepare_step, batch, None)
    table.row("a plain step", memory=(plain, plain))
    for name in BY_SAMPLES:
        for count in samples:
            peak = peak_memory(prepare_step, batch, GUIDED[name] | {"samples": count})
            table.row(f"{name}, samples={count}", memory=(peak, plain))
