"""Other libraries' explanations of the same model and inputs, where they are installed."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import models
from benchmarks.measure import milliseconds, print_table, ratios, seconds, show


def captums(model: nn.Module, x: Tensor) -> dict[str, Callable]:
    import captum.attr

    gradients = captum.attr.IntegratedGradients(model)
    return {
        "captum, saliency": lambda: captum.attr.Saliency(model).attribute(x, 1),
        "captum, integrated gradients, 50 steps": lambda: gradients.attribute(
            x, target=1, internal_batch_size=len(x) * 4
        ),
    }


def grad_cams(model: nn.Module, x: Tensor) -> dict[str, Callable]:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def grid(tokens: Tensor) -> Tensor:  # [B, 1 + 196, D] -> [B, D, 14, 14]
        return tokens[:, 1:].mT.unflatten(-1, (14, 14))

    cam = GradCAM(model, [model.blocks[-1].norm1], reshape_transform=grid)
    targets = [ClassifierOutputTarget(1)] * len(x)
    return {"pytorch-grad-cam, GradCAM": lambda: cam(x, targets)}


def autolrps(model: nn.Module, x: Tensor) -> dict[str, Callable]:
    import autolrp

    def explain() -> Tensor:
        found = []
        for sample in x.split(1):  # from one number back
            wrapped = autolrp.tensor(sample)
            model(wrapped)[0, 1].lrp()
            found.append(wrapped.relevance)
        return torch.cat(found)

    return {"autolrp, sample by sample": explain}


def peers(batch: int, rounds: int) -> None:
    model, x = models.build("deit_tiny"), models.inputs("deit_tiny", batch)
    model.requires_grad_(False)
    runs = {
        "forward": lambda: models.forward(model, x),
        "relprop, transformer_attribution": lambda: models.explain(
            model, x, "transformer_attribution"
        ),
        "relprop, generic_attention": lambda: models.explain(model, x, "generic_attention"),
    }
    missing = []
    for of_library in (captums, grad_cams, autolrps):
        try:
            # Of their own: some leave hooks in the model.
            found = of_library(copy.deepcopy(model), x.clone().requires_grad_())
            for run in found.values():
                run()
            runs |= found
        except Exception as error:  # a peer that is not there, or does not take this model
            missing.append(f"{of_library.__name__}: {type(error).__name__}: {error}")
    times = seconds(runs, rounds, "other libraries")
    print_table(
        f"DeiT-Tiny, batch {batch}: other libraries on the same model and inputs",
        ["explanation", "ms", "forward passes (quartiles)"],
        [
            [name, milliseconds(taken), show(ratios(taken, times["forward"]))]
            for name, taken in times.items()
        ],
    )
    for line in missing:
        print("not measured:", line)
