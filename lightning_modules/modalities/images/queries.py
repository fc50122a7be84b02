"""Pictures that are compared with others, a few of each class: the queries of episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset

import relprop
from lightning_modules.modalities.drawing import SHOWN, Panel, grid
from lightning_modules.modalities.images.compared import ComparedPart, Support
from lightning_modules.modalities.images.draw import overlay
from lightning_modules.modalities.images.explained import ExplainedImages
from lightning_modules.modalities.images.modality import Images
from lightning_modules.tasks import Caption

if TYPE_CHECKING:
    from PIL import Image

    from lightning_modules.models.few_shot_support import Comparisons


@dataclass(frozen=True)
class ExplainedQueries(ExplainedImages):
    """Explanations of queries; ``comparisons``: with which pixels of the support they were."""

    comparisons: Comparisons | None = None


class QueryImages(Images):
    """Queries of episodes: pictures, each beside the support that it was compared with."""

    def explained(
        self, batch: Mapping[str, Any], explanation: relprop.Explanation
    ) -> ExplainedQueries:
        return ExplainedQueries.of(explanation)

    def with_object(self, dataset: Dataset) -> list[int]:
        """None: a sample of the data is an episode, and has no background of its own."""
        return []

    def part(
        self,
        content: Image.Image,
        batch: Mapping[str, Any],
        sample: int,
        relevance: dict[str, np.ndarray],
    ) -> ComparedPart:
        return ComparedPart(**vars(super().part(content, batch, sample, relevance)))

    def samples_picture(
        self,
        batch: Mapping[str, Any],
        explanations: Sequence[ExplainedQueries],
        captions: Sequence[Sequence[Caption | None]],
        heading: str,
        signed: bool,
    ) -> np.ndarray:
        """A row a query: the picture, and for each class its map beside the class's support."""
        pictures, rows = self.pictures(batch), []
        heatmaps = [x.heatmap(pictures.shape[-2:]) for x in explanations]
        for i in range(min(SHOWN, len(pictures))):
            picture = pictures[i].permute(1, 2, 0).cpu().numpy()
            row, support = [Panel(picture, "input")], None
            for explained, maps, of_maps in zip(explanations, heatmaps, captions, strict=True):
                if (caption := of_maps[i]) is None:
                    continue
                title = f"{caption.asked}\n{caption.number}"
                row.append(Panel(overlay(pictures[i], maps[i], signed), title, caption.wrong))
                if explained.comparisons is not None:
                    if support is None:
                        support = Support.of(explained.comparisons.of(i), self.input_config)
                    tiles = support.tiled(int(explained.target[i]))
                    row.append(Panel(tiles, "compared with\nits support"))
            rows.append(row)
        return grid(rows, heading, scales=[signed])
