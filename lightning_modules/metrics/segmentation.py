"""How well a heatmap finds the object: the paper's segmentation protocol (section 4, table 2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision

from lightning_modules.metrics.sampled import SampledMetric


class Segmentation(SampledMetric):
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

    higher_is_better = True

    def update(self, heatmaps: Tensor, masks: Tensor) -> None:
        """``heatmaps`` [B, H, W], any range; ``masks`` [B, H, W], non-zero on the object."""
        maps, truth = heatmaps.flatten(1), masks.flatten(1).bool()
        found = maps > maps.mean(dim=1, keepdim=True)
        counts = [(found == truth).sum(dim=1), torch.full((len(maps),), truth.shape[1])]
        for a, b in ((~found, ~truth), (found, truth)):  # of background and object
            counts += [(a & b).sum(dim=1), (a | b).sum(dim=1)]
        low, high = maps.amin(1, keepdim=True), maps.amax(1, keepdim=True)
        scaled = torch.where(high > low, (maps - low) / (high - low), 0)
        precision = [
            binary_average_precision(torch.cat([1 - score, score]), torch.cat([~mask, mask]).long())
            for score, mask in zip(scaled, truth, strict=True)
        ]
        counts.append(torch.stack(precision))
        self.rows.append(torch.stack([x.double().to(maps.device) for x in counts], dim=1))

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows: correct, pixels, intersection and union of background and of object, AP."""
        correct, pixels, *overlaps, precision = rows.unbind(dim=1)
        iou = [
            intersection.sum() / union.sum().clamp(min=1)
            for intersection, union in (overlaps[:2], overlaps[2:])
        ]
        return {
            "pixel_accuracy": correct.sum() / pixels.sum(),
            "mIoU": torch.stack(iou).mean(),
            "mAP": precision.mean(),
        }
