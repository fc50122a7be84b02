"""Gradient methods of captum, scored beside ours: saliency, input x gradient, integrated gradients.

Of a picture for its pixels, of a text for its word embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import relprop
from lightning_modules.modalities.texts.explained import Explained, ExplainedTexts
from lightning_modules.models.classifier import Classifier

PEERS = ("saliency", "input_x_gradient", "integrated_gradients")
STEPS = 20  # of the integral


def explain_by_peer(
    module: Classifier,
    batch: Mapping[str, Any],
    logits: Tensor,
    target: int | Tensor | None,
    method: str,
) -> Explained:
    """What captum finds; ``logits`` [B, C] are those of the batch."""
    try:
        import captum.attr
    except ImportError:
        raise relprop.UnsupportedModel(
            f"{method} is captum's, which is not installed (pip install captum)"
        ) from None
    target = relprop.resolve_target(target, logits)
    inputs = module.inputs(batch)
    flags = [parameter.requires_grad for parameter in module.parameters()]
    module.requires_grad_(False)  # nobody asks for the gradients of weights
    try:
        if module.kind == "vit":
            found = of_pixels(captum.attr, module, inputs, target, method)
            grid = tuple(found.shape[1:])
            return relprop.Explanation(found.flatten(1), target, logits, grid)
        of_row = target[batch["text_of_row"]]
        found = of_embeddings(captum.attr, module.backbone, inputs, of_row, method)
        return ExplainedTexts.of(batch, found, target, logits)
    finally:
        for parameter, flag in zip(module.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)


def of_pixels(attr, module: Classifier, images: Tensor, target: Tensor, method: str) -> Tensor:
    """[B, H, W], summed over the channels; integrated from a black picture."""
    images = images.detach().clone().requires_grad_()
    if method == "saliency":
        found = attr.Saliency(module.backbone).attribute(images, target)
    elif method == "input_x_gradient":
        found = attr.InputXGradient(module.backbone).attribute(images, target)
    else:
        config = module.hparams.input_config
        mean, std = (torch.tensor(config[x], device=images.device) for x in ("mean", "std"))
        black = (-mean / std)[None, :, None, None].to(images).expand_as(images)
        found = attr.IntegratedGradients(module.backbone).attribute(
            images, black, target, n_steps=STEPS, internal_batch_size=4 * len(images)
        )
    return found.detach().sum(dim=1)


def of_embeddings(
    attr, backbone, inputs: Mapping[str, Tensor], target: Tensor, method: str
) -> Tensor:
    """[R, N], summed over the channels; integrated from a text of padding."""
    embeddings = backbone.get_input_embeddings()
    ids = inputs["input_ids"]
    others = {name: value for name, value in inputs.items() if name != "input_ids"}

    def forward(ids: Tensor, *values: Tensor) -> Tensor:
        return backbone(input_ids=ids, **dict(zip(others, values, strict=True))).logits

    arguments = {"target": target, "additional_forward_args": tuple(others.values())}
    embeddings.weight.requires_grad_(True)
    if method == "integrated_gradients":
        padding = torch.full_like(ids, backbone.config.pad_token_id or 0)
        found = attr.LayerIntegratedGradients(forward, embeddings).attribute(
            ids, padding, n_steps=STEPS, internal_batch_size=4 * len(ids), **arguments
        )
    else:
        times_input = method == "input_x_gradient"
        layer = attr.LayerGradientXActivation(forward, embeddings, multiply_by_inputs=times_input)
        found = layer.attribute(ids, **arguments)
        found = found if times_input else found.abs()
    return found.detach().sum(dim=-1)
