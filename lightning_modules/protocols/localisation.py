"""Is the relevance on the object, and on the object of the class that was asked about?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.utils.data import Dataset, Subset

from lightning_modules.data.images.folder import with_mask
from lightning_modules.metrics import ClassSpecificity, EnergyInside, PointingGame, SampledMetric
from lightning_modules.metrics import Segmentation as SegmentationMetric
from lightning_modules.modalities.images.modality import masks_of
from lightning_modules.protocols.base import IN_PAPER, PROTOCOLS, Column, Protocol
from lightning_modules.protocols.explainer import Explainer
from lightning_modules.utils.errors import InputError

# Percent, ViT-B/16.
TABLE_2 = [
    dict(zip(IN_PAPER, (73.54, 67.84, 64.44, 51.09, 76.31, 79.70), strict=True)),
    dict(zip(IN_PAPER, (84.76, 80.24, 71.60, 55.68, 84.67, 86.03), strict=True)),
    dict(zip(IN_PAPER, (55.42, 46.37, 40.82, 32.89, 57.94, 61.95), strict=True)),
]


@PROTOCOLS.register("segmentation")
class Segmentation(Protocol):
    """The predicted class's map of each test image with a mask, as a segmentation of its object.

    The paper's table 2, the pointing game, and the share of relevance on the object. Of several
    labels it is the map of each that is there, against the mask of its own object; of a regression
    the map of the first number.
    """

    modality = "image"
    tasks = ("multiclass", "multilabel", "regression")
    title = "the map as a segmentation of the object"
    paper_data = "imagenet_segmentation"
    columns = [
        Column("pixel accuracy", "pixel_accuracy", paper=TABLE_2[0], better="higher"),
        Column("mAP", "mAP", paper=TABLE_2[1], better="higher"),
        Column("mIoU", "mIoU", paper=TABLE_2[2], better="higher"),
        Column("pointing game", "pointing_game/hits", better="higher"),
        Column("energy inside", "inside/energy", better="higher"),
    ]

    def samples(self) -> Dataset:
        dataset = self.data.test_dataset
        known = with_mask(dataset)
        if not known:
            raise InputError(
                "--protocol segmentation: the test samples have no masks; accepted: images with "
                "masks, as digits, or image_folder with a folder masks/test"
            )
        return dataset if len(known) == len(dataset) else Subset(dataset, known)

    def metrics(self, **options) -> dict[str, SampledMetric]:
        return {
            "": SegmentationMetric(**options),
            "pointing_game": PointingGame(**options),
            "inside": EnergyInside(**options),
        }

    def update(self, metrics: Mapping[str, SampledMetric], explain: Explainer) -> None:
        task, batch = self.module.task, explain.batch
        asked = [None] if task.name == "multiclass" else [torch.zeros(len(batch["label"])).long()]
        if task.several:
            asked = [target for target, _ in task.present(batch["label"])]
        for target in asked:
            explained = explain(target)
            masks, known = masks_of(batch, explained.target)
            heatmaps = explained.heatmap(masks.shape[-2:])[known.to(explained.target.device)]
            for metric in metrics.values():
                metric.update(heatmaps, masks[known].to(heatmaps.device))


@PROTOCOLS.register("specificity")
class Specificity(Protocol):
    """In scenes with two objects, the share of relevance on that of the class explained."""

    modality = "image"
    tasks = ("multiclass", "multilabel")
    title = "class specificity: share of relevance on the object of the class explained"
    columns = [Column("specificity", "class_specificity", better="higher")]

    def samples(self) -> Dataset:
        pairs = getattr(self.data, "pairs_dataset", None)
        if pairs is None:
            raise InputError(
                "--protocol specificity: the data have no scenes with two objects; accepted: "
                "data that have, as digits"
            )
        return pairs

    def metrics(self, **options) -> dict[str, SampledMetric]:
        return {"": ClassSpecificity(**options)}

    def update(self, metrics: Mapping[str, SampledMetric], explain: Explainer) -> None:
        masks = explain.batch["masks"]
        heatmaps = [
            explain(labels).heatmap(masks.shape[-2:]) for labels in explain.batch["labels"].T
        ]
        of_scene = torch.stack(heatmaps, dim=1).flatten(0, 1)  # two maps each
        metrics[""].update(of_scene, masks.flatten(0, 1), masks.flip(1).flatten(0, 1), maps=2)
