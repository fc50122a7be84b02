"""Random weights of which each counts, and copies of models without constants that add."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

TABLES = re.compile(r"position|pos_emb|wpe|relative|type_emb|token_type")  # of looked-up constants
ADDED = re.compile(r"(?<!pre_)(bias|beta|pos|token|cls|class_emb|dist_emb|query_emb|prompt|^a$)")


@torch.no_grad()
def randomise(model: nn.Module, run: Callable[[nn.Module], object]) -> nn.Module:
    """Sets every parameter at random, in place; the same ones in every run.

    Matrices and kernels by their fan-in, so that activations keep their size; biases, norms and
    layer scales around their value. The statistics of batch norms are near those of what ``run``
    feeds the model.
    """
    torch.manual_seed(1)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        if id(parameter) in tables:
            parameter.copy_(noise)
        elif parameter.ndim < 2:
            parameter.add_(0.2 * noise)
        elif parameter.shape[0] == 1 and parameter.ndim == 3:  # tokens, positions
            parameter.copy_(0.3 * noise)
        else:
            parameter.copy_(noise * (parameter.shape[0] / parameter.numel()) ** 0.5)
    _set_statistics(model, run)
    return model


def _set_statistics(model: nn.Module, run: Callable[[nn.Module], object]) -> None:
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    run(model)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
        spread = norm.running_var.sqrt()
        norm.running_mean += 0.2 * spread * torch.randn_like(spread)
        norm.running_var *= 0.8 + 0.4 * torch.rand_like(spread)
        norm.running_var += 0.05


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


@torch.no_grad()
def without_constants(model: nn.Module) -> nn.Module:
    """A copy in which nothing is added to what comes from the input.

    Biases, shifts and means of norms, positions and the model's own tokens are 0.
    """
    model = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and TABLES.search(name.lower()):
            module.weight.zero_()
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.running_mean.zero_()
    for name, parameter in model.named_parameters():
        if _leaf(name) != "weight" and ADDED.search(_leaf(name).lower()):
            parameter.zero_()
    return model


def own_tokens(model: nn.Module) -> list[str]:
    """Names of the tokens that are the model's own (class token, registers): weights end there."""
    own = re.compile(r"token|cls|class_emb|query|probe|latent")
    names = ((name, _leaf(name).lower()) for name, _ in model.named_parameters())
    return [n for n, leaf in names if own.search(leaf) and not leaf.endswith(("weight", "bias"))]
