"""Classifiers: what they share, their kinds, their weights and checkpoints."""

from lightning_modules.models.bert import BertClassifier
from lightning_modules.models.beside import BESIDE
from lightning_modules.models.classifier import CLASSIFIERS
from lightning_modules.models.few_shot import FewShotClassifier
from lightning_modules.models.graph import GraphClassifier
from lightning_modules.models.hf_image import HFImageClassifier
from lightning_modules.models.vit import ViTClassifier

__all__ = [
    "BESIDE",
    "CLASSIFIERS",
    "BertClassifier",
    "FewShotClassifier",
    "GraphClassifier",
    "HFImageClassifier",
    "ViTClassifier",
]
