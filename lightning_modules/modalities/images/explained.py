"""Explanations of pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lightning_modules.modalities.explained import Explained


@dataclass(frozen=True)
class ExplainedImages(Explained):
    """The relevance of each patch, or pixel, for one class a picture; ``relevance`` [B, parts].

    ``boxes``: what the model has selected of each picture, [B, K, 4], left, top, right and bottom
    in pixels of what it was given; None of a model that selects nothing.
    """

    boxes: Tensor | None = None

    def arrays(self) -> np.ndarray:
        """[B, rows, columns]; of patches that do not tile the picture a heatmap, [B, H, W]."""
        if self.sides is not None:
            maps = self.heatmap(tuple(side.size for side in self.sides))
        else:
            maps = self.relevance.unflatten(-1, self.grid)
        return maps.float().cpu().numpy()
