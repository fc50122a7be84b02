"""Other libraries' explanations of the same model and inputs, where they are installed."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import models
from benchmarks.measure import seconds
from benchmarks.table import Table


def captum(model: nn.Module, x: Tensor) -> dict[str, Callable]:
    from captum.attr import IntegratedGradients, Saliency

    saliency, gradients = Saliency(model), IntegratedGradients(model)
    return {
        "captum, saliency": lambda: saliency.attribute(x, 1),
        "captum, integrated gradients, 50 steps": lambda: gradients.attribute(
            x, target=1, internal_batch_size=len(x) * 4
        ),
    }


def grad_cam(model: nn.Module, x: Tensor) -> dict[str, Callable]:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def grid(tokens: Tensor) -> Tensor:  # [B, 1 + 196, D] -> [B, D, 14, 14]
        return tokens[:, 1:].mT.unflatten(-1, (14, 14))

    cam = GradCAM(model, [model.blocks[-1].norm1], reshape_transform=grid)
    targets = [ClassifierOutputTarget(1)] * len(x)
    return {"pytorch-grad-cam, GradCAM": lambda: cam(x, targets)}


def autolrp(model: nn.Module, x: Tensor) -> dict[str, Callable]:
    from autolrp import tensor

    def explain() -> Tensor:
        found = []
        for sample in x.split(1):  # from one number back
            wrapped = tensor(sample)
            model(wrapped)[0, 1].lrp()
            found.append(wrapped.relevance)
        return torch.cat(found)

    return {"autolrp, sample by sample": explain}


LIBRARIES = {"captum": captum, "pytorch-grad-cam": grad_cam, "autolrp": autolrp}


def peers(table: Table, batch: int, rounds: int) -> None:
    """Ours and theirs beside one another; one that is not installed is named, not measured."""
    model, x = models.build("deit_tiny"), models.inputs("deit_tiny", batch)
    model.requires_grad_(False)
    runs = {
        "a forward pass": lambda: models.forward(model, x),
        "relprop, transformer_attribution": lambda: models.explain(
            model, x, "transformer_attribution"
        ),
        "relprop, generic_attention": lambda: models.explain(model, x, "generic_attention"),
    }
    missing = []
    for library, of_library in LIBRARIES.items():
        try:
            # Of their own: some leave hooks in the model.
            found = of_library(copy.deepcopy(model), x.clone().requires_grad_())
            for run in found.values():
                run()
            runs |= found
        except Exception as error:  # a peer that is not there, or does not take this model
            missing.append(f"{library}: {type(error).__name__}: {error}")
    times = seconds(runs, rounds, "other libraries")
    table.section(f"libraries, DeiT-Tiny, batch {batch}, over a forward pass")
    for name, taken in times.items():
        table.row(name, taken, times["a forward pass"])
    for line in missing:
        table.row("not measured", notes=f"{line} (pip install -e '.[benchmarks]' installs them)")
