"""Which parameters of a classifier are trained."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from torch import nn

from lightning_modules.utils.errors import InputError


def train_alone(backbone: nn.Module, names: Collection[str]) -> None:
    """Freeze all parameters but those of the names."""
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in names)


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters whose names match one of the patterns.

    Args:
        module: names are those of its parameters, such as ``backbone.blocks.0.norm1.weight``.
        patterns: as of ``fnmatch``: ``*`` stands for any characters, ``?`` for one, ``[0-5]`` for
            one of these; upper and lower case are told apart.

    Raises:
        InputError: a pattern matches nothing, or all is frozen.
    """
    parameters = dict(module.named_parameters())
    for pattern in patterns:
        matched = [name for name in parameters if fnmatchcase(name, pattern)]
        if not matched:
            near = difflib.get_close_matches(pattern, patterns_like(parameters), 3, cutoff=0)
            raise InputError(
                f"model.freeze has {pattern!r}, which no parameter's name matches; accepted: "
                f"patterns that match some, such as {', '.join(near)}"
            )
        for name in matched:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise InputError(
            "model.freeze: no parameter is left to train; accepted: patterns that leave some"
        )


def patterns_like(names: Collection[str]) -> list[str]:
    """Names of parameters, and a pattern for each part that holds some."""
    parts = {
        ".".join([*name.split(".")[:end], "*"])
        for name in names
        for end in range(1, name.count(".") + 1)
    }
    return [*names, *sorted(parts)]
