"""One method on one recorded batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import relprop
from lightning_modules.modalities import Explained
from lightning_modules.models.classifier import Classifier
from lightning_modules.protocols.baselines import BASELINES


@dataclass(frozen=True)
class Explainer:
    """One method on one recorded batch: call it with the classes to explain.

    Attributes:
        module: the classifier.
        trace: the recording; None where the model itself is scored.
        batch: what was recorded, with ``index``, the places of its samples in the data.
        method: name of a method or of a baseline.
        options: of the method.
        source: the source whose relevance a call gives.
    """

    module: Classifier
    trace: relprop.Trace | None
    batch: Mapping[str, Any]
    method: str
    options: Mapping[str, Any]
    source: str

    def __call__(self, target: int | Tensor | None) -> Explained:
        """The relevance of the source; errors as of :meth:`sources`."""
        return self.sources(target)[self.source]

    def sources(self, target: int | Tensor | None) -> dict[str, Explained]:
        """The relevance of all sources, by name.

        Raises:
            UnsupportedModel: relevance or logits are not finite, and so have no score.
        """
        if self.method in BASELINES:
            found = BASELINES[self.method].function(self, target)
        else:
            found = self.by_engine(target, self.method)
        for explained in found.values():
            if explained.not_finite().any():
                rows = explained.target[explained.sample_of_row]
                where = self.trace.not_finite(rows) or "the method itself"
                raise relprop.UnsupportedModel(f"its relevance is not finite, first in {where}")
        return found

    def by_engine(self, target: int | Tensor | None, method: str) -> dict[str, Explained]:
        """What a method of the engine's finds."""
        return self.module.explain_sources(
            self.trace, self.batch, [target], method, **self.options
        )[0]


def scored_methods() -> dict[str, relprop.Method]:
    """All that can be scored, by name: the engine's methods, own ones among them, and baselines.

    Raises:
        ValueError: a method has the name of a baseline.
    """
    for name in relprop.METHODS:
        if name in BASELINES:
            raise ValueError(
                f"the method {name!r} has the name of a baseline; accepted: another name"
            )
    return {**relprop.METHODS, **BASELINES}
