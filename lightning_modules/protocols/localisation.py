"""Is the relevance on the object, and on the object of the class that was asked about?"""

from __future__ import annotations

from collections.abc import Mapping

from torch.utils.data import Dataset

from lightning_modules.data import ImageDataModule
from lightning_modules.errors import InputError
from lightning_modules.metrics import ClassSpecificity, SampledMetric
from lightning_modules.metrics import Segmentation as SegmentationMetric
from lightning_modules.protocols.base import Column, Explainer, Protocol


class Segmentation(Protocol):
    """The predicted class's map of each test image as a segmentation of its object (table 2)."""

    name = "segmentation"
    title = "the map as a segmentation of the object"
    columns = [
        Column("pixel accuracy", "pixel_accuracy"),
        Column("mAP", "mAP"),
        Column("mIoU", "mIoU"),
    ]

    def dataset(self) -> Dataset:
        images = isinstance(self.data, ImageDataModule)
        if not images or "mask" not in self.data.test_dataset[0]:
            raise InputError(
                "--protocol segmentation: the test samples have no masks; accepted: images with "
                "masks, as digits, or image_folder with a folder masks/test"
            )
        return self.data.test_dataset

    def metrics(self) -> dict[str, SampledMetric]:
        return {"": SegmentationMetric()}

    def update(self, metrics: Mapping[str, SampledMetric], explain: Explainer) -> None:
        masks = explain.batch["mask"]
        metrics[""].update(explain(None).heatmap(masks.shape[-2:]), masks)


class Specificity(Protocol):
    """In scenes with two objects, the share of relevance on that of the class explained."""

    name = "specificity"
    title = "class specificity: share of relevance on the object of the class explained"
    columns = [Column("specificity", "class_specificity")]

    def dataset(self) -> Dataset:
        pairs = getattr(self.data, "pairs_dataset", None)
        if pairs is None:
            raise InputError(
                "--protocol specificity: the data have no scenes with two objects; accepted: "
                "data that have, as digits"
            )
        return pairs

    def metrics(self) -> dict[str, SampledMetric]:
        return {"": ClassSpecificity()}

    def update(self, metrics: Mapping[str, SampledMetric], explain: Explainer) -> None:
        masks = explain.batch["masks"]
        for one, labels in enumerate(explain.batch["labels"].T):
            heatmaps = explain(labels).heatmap(masks.shape[-2:])
            metrics[""].update(heatmaps, masks[:, one], masks[:, 1 - one])
