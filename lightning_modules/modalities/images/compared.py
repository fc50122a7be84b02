"""A query that was explained, with the support that it was compared with: in pictures and files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.modalities.base import as_picture
from lightning_modules.modalities.drawing import Panel, grid, stack
from lightning_modules.modalities.images.draw import overlay, unnormalize
from lightning_modules.modalities.images.part import TINY, ImagePart, on_page
from lightning_modules.modalities.maps import encoded

if TYPE_CHECKING:
    from lightning_modules.explanations.results import Result
    from lightning_modules.modalities.images.explained import ExplainedImages
    from lightning_modules.models.few_shot_support import Comparison

SIDE = 96  # pixels, at least, of a drawn picture of the support
GAP = 2  # between them, where they are tiles
LINKS = 3  # patches of the support that a line leads to
ACROSS = 8  # pictures of the support in a row
COMPARED = "What it was compared with: the support, the pictures of a class on one scale"


@dataclass(frozen=True)
class Support:
    """The support of each of C classes, under its relevance for one query.

    Attributes:
        pictures: of each class, [K, 3, H, W], 0..1.
        maps: their relevance, [K, rows, columns].
        links: for each class of each patch of the query, row by row, the patches of the support
            that it attends to most: picture, patch and attention; None of a head without attention.
    """

    pictures: list[Tensor]
    maps: list[np.ndarray]
    links: list[list[list[tuple[int, int, float]]]] | None

    @classmethod
    def of(cls, found: Comparison, input_config: Mapping[str, Any]) -> Support:
        mean, std = input_config["mean"], input_config["std"]
        height, width = found.pictures.shape[-2:]
        side = math.isqrt(found.relevance.shape[-1] * height // width)  # rows of square patches
        pictures, maps, links = [], [], []
        for label, count in enumerate(found.shots.tolist()):
            pictures.append(unnormalize(found.pictures[label, :count], mean, std).cpu())
            relevance = found.relevance[label, :count].cpu().unflatten(-1, (side, -1))
            maps.append(relevance.float().numpy())
            if found.attention is not None:
                links.append(strongest(found.attention[label, :, :count].cpu()))
        return cls(pictures, maps, links or None)

    def drawn(self, label: int) -> np.ndarray:
        """The pictures of a class under their relevance, in comparable colours: [K, h, w, 3]."""
        return under_heat(self.pictures[label], torch.from_numpy(self.maps[label]))

    def tiled(self, label: int) -> np.ndarray:
        """The pictures of a class as one, [H, W, 3], white between them and where there is none."""
        edge = ((0, 0), (GAP, GAP), (GAP, GAP), (0, 0))
        pictures = np.pad(self.drawn(label), edge, constant_values=1)
        columns = math.ceil(math.sqrt(len(pictures)))
        rows = math.ceil(len(pictures) / columns)
        blank = np.ones((rows * columns - len(pictures), *pictures.shape[1:]), pictures.dtype)
        tiles = np.concatenate([pictures, blank])
        tiles = tiles.reshape(rows, columns, *pictures.shape[1:]).swapaxes(1, 2)
        return tiles.reshape(rows * pictures.shape[1], columns * pictures.shape[2], 3)


def under_heat(pictures: Tensor, relevance: Tensor) -> np.ndarray:
    """Pictures [K, 3, H, W], 0..1, under relevance [K, rows, columns], one scale: [K, h, w, 3]."""
    zoom = max(1, math.ceil(SIDE / max(pictures.shape[-2:])))
    pictures = F.interpolate(pictures, scale_factor=zoom, mode="nearest")
    heat = F.interpolate(relevance[:, None].float(), size=pictures.shape[-2:], mode="bilinear")
    row, heat = torch.cat(list(pictures), dim=-1), torch.cat(list(heat[:, 0]), dim=-1)
    return np.stack(np.split(overlay(row, heat), len(pictures), axis=1))


def strongest(attention: Tensor) -> list[list[tuple[int, int, float]]]:
    """Of attention [N, K, M] the LINKS strongest of each of N patches."""
    values, places = attention.flatten(1).topk(min(LINKS, attention[0].numel()), dim=1)
    patches = attention.shape[-1]
    return [
        [(*divmod(place, patches), round(value, 4)) for place, value in zip(*of, strict=True)]
        for of in zip(places.tolist(), values.tolist(), strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class ComparedPart(ImagePart):
    """A picture, and the ``support`` of each class that it was compared with."""

    support: Support | None = None

    shown: ClassVar[str] = "compared"
    script: ClassVar[str] = resources.files(__package__).joinpath("compared.js").read_text("utf-8")

    def marked(self, explained: ExplainedImages, sample: int) -> ComparedPart:
        found = explained.comparisons.of(sample)
        return replace(self, support=Support.of(found, self.modality.input_config))

    def picture(self, result: Result) -> np.ndarray:
        """The maps, and below, for each class, its support under what the query compared."""
        rows = []
        for label in result.classes:
            name = result.called(label)
            panels = [
                Panel(drawn, f"{name}: picture {number}")
                for number, drawn in enumerate(self.support.drawn(label), start=1)
            ]
            rows += [panels[start : start + ACROSS] for start in range(0, len(panels), ACROSS)]
        return stack([super().picture(result), grid(rows, COMPARED)])

    def common(self) -> dict[str, Any]:
        """The pictures of the support, by what they show."""
        return {named(uri): uri for of_class in self.uris for uri in of_class}

    @cached_property
    def uris(self) -> list[list[str]]:
        """The pictures of the support of each class, as the page has them."""
        return [
            [on_page(as_picture(x.permute(1, 2, 0).numpy()), 2 * SIDE) for x in pictures]
            for pictures in self.support.pictures
        ]

    def page(self) -> dict[str, Any]:
        """For each class the names of its pictures in :meth:`common`, their maps, and links."""
        links = self.support.links or [None] * len(self.support.maps)
        size = list(self.support.pictures[0].shape[:1:-1])
        support = [
            {"pictures": [named(x) for x in of_class], "maps": encoded(maps), "links": of_links}
            for of_class, maps, of_links in zip(self.uris, self.support.maps, links, strict=True)
        ]
        return super().page() | {
            "support": support,
            "supportSize": size,
            "supportTiny": max(size) <= TINY,
        }

    def json(self) -> dict[str, Any]:
        """``support``: for each class the relevance of each of its pictures, patch by patch."""
        return super().json() | {"support": [maps.round(8).tolist() for maps in self.support.maps]}


def named(uri: str) -> str:
    """A name that no other picture has."""
    return hashlib.sha256(uri.encode()).hexdigest()[:16]
