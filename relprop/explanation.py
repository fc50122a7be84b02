"""What explaining a batch gives: the relevance of each token, and its heatmap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.sides import Side


@dataclass(frozen=True, repr=False)
class Explanation:
    """The relevance of each token for one class a sample.

    ``relevance`` [B, tokens] of what the model was given, in its order: without class, distillation
    and register tokens, and without patches of padding alone. Of a picture it is of each pixel for
    ``lrp``, for ``attnlrp`` and ``cp_lrp`` with ``level="input"``, and of models without attention.
    ``target`` [B]; ``logits`` [B, C]. ``grid``: rows and columns of ``relevance`` in the picture,
    None for texts and vectors. ``sides``: where the patches lie along its height and its width;
    None where they tile it, so that rows and columns divide it evenly. Of a model with several
    sources ``sources`` has an explanation of each.
    """

    relevance: Tensor
    target: Tensor
    logits: Tensor
    grid: tuple[int, int] | None
    sides: tuple[Side, Side] | None = None
    source: str = "input"
    several: Mapping[str, Explanation] = field(default_factory=dict, repr=False)

    @property
    def sources(self) -> dict[str, Explanation]:
        """The explanation of each source by name: an input, or a parameter that is ``learned``."""
        return dict(self.several) or {self.source: self}

    @classmethod
    def of_sources(cls, several: Mapping[str, Explanation]) -> Explanation:
        """One explanation of a model with several sources. It has no relevance of its own."""
        first = next(iter(several.values()))
        return _OfSources(first.target, first.logits, several=several)

    def __repr__(self) -> str:
        names = ("sources", "target") if self.several else ("source", "relevance", "target", "grid")
        known = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{Explanation.__name__}({known})"

    def heatmap(self, size: int | tuple[int, int]) -> Tensor:
        """The map over the picture drawn as ``size`` (H, W): [B, H, W].

        Linear between the centres of patches, and beyond the outermost the nearest patch's. It is 0
        where no patch looks: at the end of a picture whose side is no multiple of a patch's, say,
        or between patches that are further apart than they are wide. Of a patch that lies partly
        in the padding of the model the map has the part in the picture. ValueError where the input
        is no picture.
        """
        if self.grid is None:
            raise ValueError(
                "there is no grid of patches to make a heatmap of: the input is no picture"
            )
        maps = self.relevance.unflatten(-1, self.grid)
        height, width = (size, size) if isinstance(size, int) else size
        if self.sides is None:
            drawn = (height, width)
            return F.interpolate(maps[:, None], drawn, mode="bilinear", align_corners=False)[:, 0]
        rows, columns = (
            side.interpolation(n).to(maps)
            for side, n in zip(self.sides, (height, width), strict=True)
        )
        return rows @ maps @ columns.mT


_OF_ONE = {x: x for x in ("relevance", "grid", "sides", "source")} | {"heatmap": "heatmap(size)"}


@dataclass(frozen=True, repr=False)
class _OfSources(Explanation):
    """The explanations of several sources. What is of one of them is asked of that one."""

    relevance: Tensor = field(init=False)
    grid: tuple[int, int] | None = field(init=False)
    sides: tuple[Side, Side] | None = field(init=False)
    source: str = field(init=False)

    def __getattribute__(self, name: str):
        if name in _OF_ONE:
            raise AttributeError(
                f"the explanation is of {len(self.several)} sources ({', '.join(self.several)}); "
                f"accepted: explanation.sources[{next(iter(self.several))!r}].{_OF_ONE[name]}"
            )
        return super().__getattribute__(name)


def joined(explanations: Sequence[Explanation]) -> Explanation:
    """The explanation of a batch from those of its parts."""
    first = explanations[0]
    if len(explanations) == 1:
        return first
    if first.several:
        by_source = {
            name: joined([x.several[name] for x in explanations]) for name in first.several
        }
        return Explanation.of_sources(by_source)
    relevance, target, logits = (
        torch.cat([getattr(x, name) for x in explanations])
        for name in ("relevance", "target", "logits")
    )
    return replace(first, relevance=relevance, target=target, logits=logits)
