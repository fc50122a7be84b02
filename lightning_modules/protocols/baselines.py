"""What methods are compared with: gradient methods of captum's, and chance.

Gradients are of a picture's pixels, or of other numbers, and of a text's word embeddings.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import relprop
from lightning_modules.modalities import Explained
from lightning_modules.models.classifier import Classifier
from relprop.registry import Registry

if TYPE_CHECKING:
    from lightning_modules.protocols.explainer import Explainer

STEPS = 20  # of the integral
CHANCE = ("constant", "random")  # baselines that do not look at the model

# The function of a baseline takes (explainer, target) and gives the relevance of every source.
BASELINES: Registry[relprop.Method] = Registry("baseline")


def baseline(name: str, signed: bool = False) -> Callable[[Callable], Callable]:
    """Register a function (explainer, target) -> {source: :class:`Explained`}."""

    def add(function: Callable) -> Callable:
        BASELINES.add(name, relprop.Method(name, function, signed=signed, pixels=True), function)
        return function

    return add


@baseline("saliency")
def saliency(explainer: Explainer, target: int | Tensor | None) -> dict[str, Explained]:
    """Magnitude of the gradient (Simonyan et al. 2013)."""
    return by_captum(explainer, target, "saliency")


@baseline("input_x_gradient", signed=True)
def input_x_gradient(explainer: Explainer, target: int | Tensor | None) -> dict[str, Explained]:
    """Gradient times input (Shrikumar et al. 2016)."""
    return by_captum(explainer, target, "input_x_gradient")


@baseline("integrated_gradients", signed=True)
def integrated_gradients(explainer: Explainer, target: int | Tensor | None) -> dict[str, Explained]:
    """Gradient integrated from an input that shows nothing (Sundararajan et al. 2017)."""
    return by_captum(explainer, target, "integrated_gradients")


@baseline("constant")
def constant(explainer: Explainer, target: int | Tensor | None) -> dict[str, Explained]:
    """0 everywhere: what a score makes of a map that says nothing."""
    found = some_map(explainer, target)
    return {name: x.with_relevance(torch.zeros_like(x.relevance)) for name, x in found.items()}


@baseline("random")
def random(explainer: Explainer, target: int | Tensor | None) -> dict[str, Explained]:
    """Uniform noise, a function of the index of the sample alone: what a method has to beat."""
    found = some_map(explainer, target)
    for place, (name, explained) in enumerate(found.items()):
        shape = explained.relevance.shape[1:]
        noise = [
            torch.rand(shape, generator=torch.Generator().manual_seed(index + 2**32 * place))
            for index in explainer.batch["index"][explained.sample_of_row.cpu()].tolist()
        ]
        found[name] = explained.with_relevance(torch.stack(noise).to(explained.relevance))
    return found


def some_map(explainer: Explainer, target: int | Tensor | None) -> dict[str, Explained]:
    """Maps of tokens, or of the pixels where a model has no attention, whatever they say."""
    with contextlib.suppress(relprop.UnsupportedModel):
        return explainer.by_engine(target, "raw_attention")
    return explainer.by_engine(target, "attnlrp")


# ------------------------------------------------------------------------------------- captum


def by_captum(
    explainer: Explainer, target: int | Tensor | None, method: str
) -> dict[str, Explained]:
    """What captum finds."""
    try:
        import captum.attr
    except ImportError:
        raise relprop.UnsupportedModel(
            f"{method} is captum's, which is not installed (pip install captum)"
        ) from None
    module, batch = explainer.module, explainer.batch
    logits = module.logits(explainer.trace, batch)
    target = relprop.resolve_target(target, logits)
    inputs, of_row = module.inputs(batch), module.per_row(target, batch)
    is_text = not isinstance(inputs, Tensor) and "input_ids" in inputs
    if not is_text and len(numbers_among(inputs)) != 1:
        raise relprop.UnsupportedModel(
            f"{method} is of one tensor of numbers, or of input_ids; the model takes "
            f"{', '.join(inputs)}"
        )
    flags = [parameter.requires_grad for parameter in module.parameters()]
    module.requires_grad_(False)  # nobody asks for the gradients of weights
    try:
        find = of_embeddings if is_text else of_numbers
        found = find(captum.attr, module, inputs, of_row, method)
    finally:
        for parameter, flag in zip(module.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)
    grid = tuple(found.shape[1:]) if found.ndim == 3 else None
    explanation = relprop.Explanation(found.flatten(1), target, logits, grid)
    return module.by_source(batch, explanation)


def numbers_among(inputs: Tensor | Mapping[str, Tensor]) -> list[str]:
    """Names of the inputs that are numbers, and no mask; that of a tensor alone is ""."""
    named = {"": inputs} if isinstance(inputs, Tensor) else inputs
    return [name for name, x in named.items() if x.is_floating_point() and "mask" not in name]


def of_numbers(
    attr, module: Classifier, inputs: Tensor | Mapping[str, Tensor], target: Tensor, method: str
) -> Tensor:
    """Of pictures [B, C, H, W] by pixels, [B, H, W]; of vectors [B, N] or [B, N, F], [B, N]."""
    (name,) = numbers_among(inputs)
    others = {} if name == "" else {x: value for x, value in inputs.items() if x != name}

    def forward(numbers: Tensor, *values: Tensor) -> Tensor:
        if name == "":
            return module.of_backbone(numbers)
        return module.of_backbone({name: numbers, **dict(zip(others, values, strict=True))})

    inputs = (inputs if name == "" else inputs[name]).detach().clone().requires_grad_()
    given = {"target": target, "additional_forward_args": tuple(others.values()) or None}
    if method == "saliency":
        found = attr.Saliency(forward).attribute(inputs, **given)
    elif method == "input_x_gradient":
        found = attr.InputXGradient(forward).attribute(inputs, **given)
    else:
        blank = module.blank(inputs).expand_as(inputs)
        found = attr.IntegratedGradients(forward).attribute(
            inputs, blank, n_steps=STEPS, internal_batch_size=4 * len(inputs), **given
        )
    found = found.detach()
    return found if found.ndim == 2 else found.sum(dim=1 if found.ndim == 4 else -1)


def of_embeddings(
    attr, module: Classifier, inputs: Mapping[str, Tensor], target: Tensor, method: str
) -> Tensor:
    """Of texts by word pieces, [R, N]; integrated from a text of padding."""
    backbone, ids = module.backbone, inputs["input_ids"]
    embeddings = backbone.get_input_embeddings()
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
