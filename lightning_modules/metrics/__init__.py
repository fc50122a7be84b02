"""Scores of explanations, as torchmetrics Metrics."""

from lightning_modules.metrics.background import BackgroundEffect
from lightning_modules.metrics.class_incremental import ClassIncremental
from lightning_modules.metrics.episodes import EpisodeAccuracy, EpisodeInterval
from lightning_modules.metrics.identifiability import Identifiability, identifiability
from lightning_modules.metrics.localisation import EnergyInside, PointingGame
from lightning_modules.metrics.perturbation import (
    PerturbationAccuracy,
    PerturbationProbability,
    perturb,
)
from lightning_modules.metrics.properties import Completeness, Complexity, Sensitivity
from lightning_modules.metrics.rationales import Faithfulness, RationaleAUPRC, TokenF1
from lightning_modules.metrics.sampled import SampledMetric
from lightning_modules.metrics.sanity import CascadeCorrelation, RankCorrelation
from lightning_modules.metrics.segmentation import Segmentation
from lightning_modules.metrics.specificity import ClassSpecificity

__all__ = [
    "BackgroundEffect",
    "CascadeCorrelation",
    "ClassIncremental",
    "ClassSpecificity",
    "Completeness",
    "Complexity",
    "EnergyInside",
    "EpisodeAccuracy",
    "EpisodeInterval",
    "Faithfulness",
    "Identifiability",
    "PerturbationAccuracy",
    "PerturbationProbability",
    "PointingGame",
    "RankCorrelation",
    "RationaleAUPRC",
    "SampledMetric",
    "Segmentation",
    "Sensitivity",
    "TokenF1",
    "identifiability",
    "perturb",
]
