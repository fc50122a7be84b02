"""Explanations of a batch: the relevance of the parts of one source of its samples."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

import relprop


@dataclass(frozen=True)
class Explained(relprop.Explanation):
    """The relevance of the parts of one source, for one class a sample.

    A modality whose relevance needs more than this, as that of word pieces, has a class of its own.
    """

    @classmethod
    def of(cls, explanation: relprop.Explanation, **more: Any) -> Self:
        """An explanation of the engine's, with what ``more`` the class needs."""
        there = {x.name: getattr(explanation, x.name) for x in fields(relprop.Explanation)}
        return cls(**there, **more)

    @property
    def sample_of_row(self) -> Tensor:
        """The sample that each row of ``relevance`` is of, [R]."""
        return torch.arange(len(self.relevance), device=self.relevance.device)

    @property
    def maps(self) -> Tensor:
        """The relevance of the parts of each sample, [B, parts]; NaN where the model saw none."""
        return self.relevance

    def arrays(self) -> np.ndarray:
        """The maps as a file has them, [B, ...], float32; NaN where the model saw no part."""
        return self.maps.float().cpu().numpy()

    def with_relevance(self, relevance: Tensor) -> Self:
        """The same with other relevance, of the same shape."""
        return replace(self, relevance=relevance)

    def finite(self) -> Self:
        """The same with 0 for what is not finite."""
        return self.with_relevance(self.relevance.nan_to_num(0, 0, 0))

    def not_finite(self) -> Tensor:
        """True for each sample whose relevance or logits are not finite, bool [B]."""
        rows = (~self.relevance.isfinite()).flatten(1).any(dim=1)
        samples = (~self.logits.isfinite()).any(dim=1)
        return samples.index_put((self.sample_of_row[rows],), torch.tensor(True).to(samples))


def joined_maps(explained: dict[str, Explained]) -> Tensor:
    """The maps of all sources, [B, parts of all]."""
    return torch.cat([x.maps.flatten(1) for x in explained.values()], dim=1)
