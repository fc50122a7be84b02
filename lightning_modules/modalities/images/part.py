"""A picture that was explained: its drawing, and what the page and files have of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import CenterCrop, Resize

from lightning_modules.data.images.transforms import make_eval_transform
from lightning_modules.modalities.base import Part, data_uri, is_signed
from lightning_modules.modalities.drawing import Panel, grid
from lightning_modules.modalities.images.draw import SELECTED, draw_alone, draw_over, outlined
from lightning_modules.modalities.maps import encoded

if TYPE_CHECKING:
    from lightning_modules.explanations.results import Result
    from lightning_modules.modalities.images.explained import ExplainedImages

SMALLEST, LARGEST = 180, 1024  # pixels of a picture's long side, as it is drawn
GRID = 32  # most rows and columns of a map of pixels on the page
SIDE = 320  # longest side of a picture on the page, pixels
TINY = 64  # a picture no longer than this is kept to the pixel


@dataclass(frozen=True, kw_only=True)
class ImagePart(Part):
    """An RGB picture with its maps, [T, rows, columns] of patches or of pixels.

    Attributes:
        region: the part of it that the model saw and the maps cover: left, top, right, bottom in
            pixels of ``content``.
        size: width and height of the original, of which ``content`` may be a smaller copy.
        given: height and width of what the model was given.
        boxes: what the model has selected, [K, 4], left, top, right and bottom in pixels of what it
            was given; None of a model that selects nothing.
    """

    region: tuple[float, float, float, float]
    size: tuple[int, int]
    given: tuple[int, int]
    boxes: torch.Tensor | None = None

    shown: ClassVar[str] = "picture"
    kind: ClassVar[str] = "picture"

    @property
    def marks_shown(self) -> str | None:
        return None if self.boxes is None else SELECTED

    def marked(self, explained: ExplainedImages, sample: int) -> ImagePart:
        if explained.boxes is None:
            return self
        return replace(self, boxes=explained.boxes[sample].cpu())

    def small(self, longest: int = SIDE) -> ImagePart:
        """The same with a picture of at most ``longest`` pixels a side."""
        if max(self.content.size) <= longest:
            return self
        copy = self.content.copy()
        copy.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        x, y = (new / old for new, old in zip(copy.size, self.content.size, strict=True))
        left, top, right, bottom = self.region
        return replace(self, content=copy, region=(left * x, top * y, right * x, bottom * y))

    def picture(self, result: Result) -> np.ndarray:
        """Beside the picture, for each class, its heatmap over it and the heatmap itself.

        The picture has an outline around what the model has selected.
        """
        width, height = self.content.size
        zoom = min(max(1, SMALLEST / max(width, height)), LARGEST / max(width, height))
        size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
        enlarged = self.content.resize(
            size, Image.Resampling.NEAREST if zoom > 1 else Image.Resampling.LANCZOS
        )
        picture = np.asarray(enlarged, dtype=np.float32) / 255
        left, top, right, bottom = (round(edge * zoom) for edge in self.region)
        region = [left, top, max(right, left + 1), max(bottom, top + 1)]
        space = "\n" if result.activation is None else " "
        rows = []
        for method, maps in self.relevance.items():
            signed = is_signed(method)
            title = "\n".join(filter(None, [method, self.marks_shown]))
            row = [Panel(self.outlined(picture), title)]
            for index, relevance in zip(result.classes, torch.from_numpy(maps), strict=True):
                over = draw_over(picture, relevance, region, signed)
                row.append(Panel(over, result.question(index, space), result.is_wrong(index)))
                row.append(Panel(draw_alone(relevance, region, size, signed), "heatmap"))
            rows.append(row)
        return grid(rows, result.heading, size, sorted({is_signed(m) for m in self.relevance}))

    def outlined(self, picture: np.ndarray) -> np.ndarray:
        """The picture with its boxes."""
        if self.boxes is None:
            return picture
        height, width = picture.shape[:2]
        boxes = torch.tensor(self.shares_of_boxes()) * torch.tensor([width, height] * 2)
        return outlined(picture, boxes)

    def json(self) -> dict[str, Any]:
        known = {"size": list(self.size), "region": self.shares_of_region()}
        return known if self.boxes is None else known | {"boxes": self.shares_of_boxes()}

    def shares_of_region(self) -> list[float]:
        """The region's edges as shares of the picture's width and height."""
        width, height = self.content.size
        left, top, right, bottom = self.region
        return [left / width, top / height, right / width, bottom / height]

    def shares_of_boxes(self) -> list[list[float]]:
        """The edges of each box as shares of the picture's width and height."""
        if self.boxes is None:
            return []
        (height, width), (left, top, right, bottom) = self.given, self.shares_of_region()
        zoom = torch.tensor([(right - left) / width, (bottom - top) / height] * 2)
        return (self.boxes * zoom + torch.tensor([left, top, left, top])).tolist()

    def is_of_pixels(self, maps: np.ndarray) -> bool:
        """True if maps [T, rows, columns] have a number for each pixel that the model saw."""
        return maps.shape[1:] == self.given

    def page(self) -> dict[str, Any]:
        width, height = self.content.size
        return {
            "shown": self.shown,
            "picture": on_page(self.content),
            "size": [width, height],
            "tiny": max(width, height) <= TINY,
            "region": self.shares_of_region(),
            "boxes": self.shares_of_boxes(),
            "marked": self.marks_shown,
            "maps": {
                name: pooled(maps) if self.is_of_pixels(maps) else encoded(maps)
                for name, maps in self.relevance.items()
            },
        }

    def glimpse(self) -> Image.Image:
        return self.content


def on_page(picture: Image.Image, longest: int = SIDE) -> str:
    """A picture for the page: exact where it is so small that its pixels are to be seen.

    ``longest``: its longest side, pixels.
    """
    small = picture.convert("RGB")
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    if max(picture.size) <= TINY:
        return data_uri(small)
    return data_uri(small, format="JPEG", quality=85)


def pooled(maps: np.ndarray) -> dict[str, Any]:
    """Maps [T, H, W] of pixels as means over squares, at most ``GRID`` a side."""
    side = math.ceil(max(maps.shape[1:]) / GRID)
    shape = [math.ceil(length / side) for length in maps.shape[1:]]
    return encoded(F.adaptive_avg_pool2d(torch.tensor(maps), shape).numpy(), side)


def seen_region(
    size: tuple[int, int], input_config: Mapping[str, Any]
) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what a model sees of a picture of ``size`` (width, height).

    It is the centre crop, in the picture's own pixels: after the resize it is H / crop_pct high
    or wide, or both where the picture is squashed. The crop of a picture that is too small for it
    lies partly outside.
    """
    resize, crop, *_ = make_eval_transform(dict(input_config)).transforms
    if not (isinstance(resize, Resize) and isinstance(crop, CenterCrop)):
        raise TypeError(f"the evaluation transform begins with {resize} and {crop}")
    width, height = size
    if isinstance(resize.size, int):  # the shorter side's
        scales = (min(size) / resize.size,) * 2
    else:  # the picture was squashed
        scales = height / resize.size[0], width / resize.size[1]
    half_height, half_width = (c * s / 2 for c, s in zip(crop.size, scales, strict=True))
    x, y = width / 2, height / 2
    return x - half_width, y - half_height, x + half_width, y + half_height
