"""What is checked: a family, and how its small model, inputs and ways to be asked are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Inputs = Tensor | Mapping[str, Tensor]


@dataclass
class Padded:
    """A batch in which a sample is padded, and that sample alone.

    ``row``: of the padded sample; ``tokens``: where it has no padding.
    """

    inputs: Mapping[str, Tensor]
    alone: Mapping[str, Tensor]
    row: int
    tokens: slice


@dataclass
class Example:
    """A model with inputs for it, in float64.

    ``asked``: keyword arguments of ``relprop.record`` and ``relprop.explain`` (``output``,
    ``position``, ``learned``). ``target`` [B]: the classes to explain, classes 0, 1, ... if None.
    ``padded``: by side. ``starts``: what the weights of a sample sum to, 2 for two towers.
    """

    model: nn.Module
    inputs: Inputs
    asked: dict[str, object] = field(default_factory=dict)
    target: Tensor | None = None
    padded: dict[str, Padded] = field(default_factory=dict)
    starts: int = 1

    @property
    def keywords(self) -> dict[str, Tensor]:
        """The inputs by name; a tensor alone is ``input``."""
        return dict(self.inputs) if isinstance(self.inputs, Mapping) else {"input": self.inputs}

    def run(self, inputs: Inputs) -> Tensor:
        """Scores [B, C] of a plain forward pass, read as ``asked`` says."""
        out = self.model(**inputs) if isinstance(inputs, Mapping) else self.model(inputs)
        if "output" in self.asked:
            return self.asked["output"](out)
        logits = out if isinstance(out, Tensor) else getattr(out, "logits", out)
        if "position" in self.asked:
            return logits[torch.arange(len(logits)), self.asked["position"]]
        return logits

    def classes(self, scores: Tensor) -> Tensor:
        """The class of each sample that is explained, [B]."""
        if self.target is not None:
            return self.target
        return torch.arange(len(scores)) % scores.shape[1]


@dataclass(frozen=True)
class Entry:
    """A row of the table. ``kind``: timm, text, picture, pair or sound; ``model``: its name or
    class; ``make``: its example; ``must``: it has to be explained; ``refused``: it has to be
    refused."""

    name: str
    kind: str
    model: str
    make: Callable[[], Example]
    must: bool = False
    refused: bool = False
