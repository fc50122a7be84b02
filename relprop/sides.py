"""Where the patches of a picture lie along its sides, and what that makes of a heatmap."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Side:
    """The patches along one side of a picture, in its pixels.

    ``count`` patches of ``length`` pixels, on a side of ``size`` pixels. The first begins at pixel
    ``first`` (less than 0 where the model pads the picture), each other one ``stride`` after the
    one before. The last may end outside of the picture, or before its end.
    """

    size: int
    count: int
    first: int
    stride: int
    length: int

    @property
    def is_tiled(self) -> bool:
        """Whether the patches cover the side, and nothing else, without overlap."""
        return self.first == 0 and self.stride == self.length == self.size / self.count

    def interpolation(self, size: int) -> Tensor:
        """The weight of each patch in each of ``size`` pixels that the side is drawn with.

        Linear between the centres of patches, as ``F.interpolate`` has it where they tile the side;
        0 where no patch looks: [size, count], float64.
        """
        pixels = (torch.arange(size, dtype=torch.float64) + 0.5) * (self.size / size)  # centres
        place = (pixels - self.first - self.length / 2) / self.stride  # 0: centre of the first
        place = place.clamp(0, self.count - 1)
        weights = (1 - (place[:, None] - torch.arange(self.count)).abs()).clamp(min=0)
        since = pixels - self.first
        latest = (since / self.stride).floor().clamp(0, self.count - 1)  # patch to begin before it
        seen = (since >= 0) & (since - latest * self.stride < self.length)
        return weights * seen[:, None]
