"""Pictures: how they are read, explained, drawn and watched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

import relprop
from lightning_modules.data.images.files import IMAGE_ENDINGS, read_image
from lightning_modules.data.images.folder import with_mask
from lightning_modules.data.images.transforms import make_eval_transform
from lightning_modules.metrics import ClassSpecificity, Segmentation
from lightning_modules.modalities.base import MODALITIES, Modality
from lightning_modules.modalities.images.backgrounds import on_backgrounds
from lightning_modules.modalities.images.draw import explanation_picture, unnormalize
from lightning_modules.modalities.images.explained import ExplainedImages
from lightning_modules.modalities.images.part import ImagePart, seen_region
from lightning_modules.tasks import Caption, captions_of

if TYPE_CHECKING:
    from lightning_modules.callbacks.watch import Watch


@MODALITIES.register("image")
class Images(Modality):
    """RGB pictures; a batch holds ``[source]`` [B, 3, H, W], normalised.

    Args:
        source: their name in a batch.
        input_config: in timm's words (``input_size``, ``mean``, ``std``, ``interpolation``,
            ``crop_pct``, ``crop_mode``).
    """

    called = "image"
    endings = IMAGE_ENDINGS
    axes = ("row", "column")
    pipeline = "image-classification"

    def read(self, path: Path) -> Image.Image:
        return read_image(path)

    def batch(self, contents: Sequence[Image.Image]) -> dict[str, Tensor]:
        """RGB pictures of any size, resized, cropped and normalised as in evaluation."""
        transform = make_eval_transform(self.input_config)
        return {self.source: torch.stack([transform(picture) for picture in contents])}

    def explained(
        self, batch: Mapping[str, Any], explanation: relprop.Explanation
    ) -> ExplainedImages:
        return ExplainedImages.of(explanation)

    def blank(self, inputs: Tensor) -> Tensor:
        """A black picture."""
        mean, std = (torch.tensor(self.input_config[x]) for x in ("mean", "std"))
        return (-mean / std)[:, None, None].to(inputs)

    # -------------------------------------------------------------------- objects, backgrounds

    def with_object(self, dataset: Dataset) -> list[int]:
        return with_mask(dataset)

    def on_backgrounds(
        self, batch: Mapping[str, Any], others: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Tensor]:
        pairs = [x for of in (batch, others) for x in (of[self.source], of["mask"])]
        pictures, there = on_backgrounds(*pairs)
        return {**batch, self.source: pictures}, there

    # -------------------------------------------------------------------------------- drawing

    def pictures(self, batch: Mapping[str, Any]) -> Tensor:
        """The pictures of a batch as they look, [B, 3, H, W], 0..1."""
        return unnormalize(batch[self.source], self.input_config["mean"], self.input_config["std"])

    def part(
        self,
        content: Image.Image,
        batch: Mapping[str, Any],
        sample: int,
        relevance: dict[str, np.ndarray],
    ) -> ImagePart:
        region = seen_region(content.size, self.input_config)
        given = tuple(batch[self.source].shape[-2:])
        return ImagePart(self, content, relevance, region=region, size=content.size, given=given)

    # -------------------------------------------------------------------------- while training

    def scores(self, batch: Mapping[str, Any], *explained: ExplainedImages) -> dict[str, Tensor]:
        """The map as a segmentation of the object, of the samples that have a mask."""
        segmentation = Segmentation(sync_on_compute=False)  # rank 0 alone is here
        for of_class in explained:
            masks, known = (x.cpu() for x in masks_of(batch, of_class.target))
            if known.any():
                heatmaps = of_class.heatmap(batch[self.source].shape[-2:]).float().cpu()
                segmentation.update(heatmaps[known], masks[known])
        return segmentation.compute() if segmentation.rows else {}

    def marks(self, batch: Mapping[str, Any], target: Tensor) -> tuple[Tensor, Tensor]:
        """The mask of the object, [B, H, W]."""
        masks, known = masks_of(batch, target)
        return masks, known & masks.flatten(1).any(dim=1)  # a crop may leave no object

    def beside(
        self, explained: ExplainedImages, marks: Tensor, drawn: bool
    ) -> list[tuple[Tensor, Tensor]]:
        marks = marks.to(explained.relevance)
        if drawn or explained.sides is not None:
            return [(explained.heatmap(tuple(marks.shape[-2:])), marks)]
        maps = explained.relevance.unflatten(-1, explained.grid)
        return [(maps, F.adaptive_avg_pool2d(marks, explained.grid))]

    def samples_picture(
        self,
        batch: Mapping[str, Any],
        explanations: Sequence[ExplainedImages],
        captions: Sequence[Sequence[Caption | None]],
        heading: str,
        signed: bool,
    ) -> np.ndarray:
        return explanation_picture(self.pictures(batch), explanations, captions, heading, signed)

    def watch_more(self, watch: Watch, count: int) -> None:
        """Scenes of two objects, each explained for the class of each: class specificity."""
        pairs = getattr(watch.data, "pairs_dataset", None)
        if pairs is None:
            return
        batch = watch.load(pairs, range(min(count, len(pairs))))
        explanations = watch.explain(batch, list(batch["labels"].T), self.source)
        specificity = ClassSpecificity(sync_on_compute=False).to(watch.module.device)
        for one, explanation in enumerate(explanations):
            heatmaps = explanation.heatmap(batch[self.source].shape[-2:])
            specificity.update(heatmaps, batch["masks"][:, one], batch["masks"][:, 1 - one])
        watch.report.scalars |= specificity.compute()
        watch.report.pictures["pairs"] = self.samples_picture(
            batch,
            explanations,
            captions_of(explanations, ("why {}?", "why {}?"), watch.module.task),
            f"Two objects a scene: why each? Epoch {watch.epoch}",
            watch.signed,
        )


def masks_of(batch: Mapping[str, Any], target: Tensor) -> tuple[Tensor, Tensor]:
    """The mask of each sample's class ``target`` [B], and where there is one.

    Bool [B, H, W] and [B]. Where each class has a mask of its own, [B, C, H, W] in a batch, that of
    a class that is not there is empty.
    """
    if "mask" not in batch:
        return torch.empty(len(target), 0, 0, dtype=torch.bool), torch.zeros(len(target)).bool()
    masks = batch["mask"]
    known = batch.get("has_mask", masks.new_ones(len(masks)))
    if masks.ndim == 4:
        masks = masks[torch.arange(len(masks)), target.to(masks.device)]
        known = known & masks.flatten(1).any(dim=1)
    return masks, known
