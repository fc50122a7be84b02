"""Scores of explanations, as torchmetrics Metrics."""

from lightning_modules.metrics.perturbation import PerturbationAccuracy, perturb
from lightning_modules.metrics.rationales import TokenF1
from lightning_modules.metrics.sampled import SampledMetric
from lightning_modules.metrics.segmentation import Segmentation
from lightning_modules.metrics.specificity import ClassSpecificity

__all__ = [
    "ClassSpecificity",
    "PerturbationAccuracy",
    "SampledMetric",
    "Segmentation",
    "TokenF1",
    "perturb",
]
