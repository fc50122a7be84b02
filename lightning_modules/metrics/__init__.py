"""Scores of explanations, as torchmetrics Metrics."""

from lightning_modules.metrics.segmentation import Segmentation
from lightning_modules.metrics.specificity import ClassSpecificity

__all__ = ["ClassSpecificity", "Segmentation"]
