"""How well a heatmap finds the object: the paper's segmentation protocol (section 4, table 2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_average_precision


class Segmentation(Metric):
    """Pixel accuracy, mIoU and mAP of heatmaps as segmentations of the object.

    A pixel is called object where the map lies above its own mean. Pixel accuracy and mIoU (mean of
    both classes' intersection over union) accumulate over the data set; AP ranks the pixels of both
    classes of one image by the map scaled to 0..1, and is averaged over images. All 0 to 1, higher
    is better.

    >>> import torch
    >>> metric = Segmentation()
    >>> metric.update(torch.tensor([[[0.9, 0.2], [0.1, 0.0]]]), torch.tensor([[[1, 0], [0, 0]]]))
    >>> {name: round(value.item(), 2) for name, value in metric.compute().items()}
    {'pixel_accuracy': 1.0, 'mIoU': 1.0, 'mAP': 1.0}
    """

    full_state_update = False

    def __init__(self, **options) -> None:
        super().__init__(**options)
        for name in ("correct", "pixels", "images"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")
        for name in ("intersection", "union"):  # of background and object
            self.add_state(name, torch.zeros(2, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("precision", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, heatmaps: Tensor, masks: Tensor) -> None:
        """``heatmaps`` [B, H, W], any range; ``masks`` [B, H, W], non-zero on the object."""
        maps, truth = heatmaps.flatten(1), masks.flatten(1).bool()
        found = maps > maps.mean(dim=1, keepdim=True)
        self.correct += (found == truth).sum()
        self.pixels += truth.numel()
        for label, (a, b) in enumerate(((~found, ~truth), (found, truth))):
            self.intersection[label] += (a & b).sum()
            self.union[label] += (a | b).sum()
        low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
        scaled = torch.where(high > low, (maps - low) / (high - low), 0)
        for score, mask in zip(scaled, truth, strict=True):
            self.precision += binary_average_precision(
                torch.cat([1 - score, score]), torch.cat([~mask, mask]).long()
            )
            self.images += 1

    def compute(self) -> dict[str, Tensor]:
        return {
            "pixel_accuracy": self.correct / self.pixels,
            "mIoU": (self.intersection / self.union.clamp(min=1)).mean(),
            "mAP": self.precision / self.images,
        }
