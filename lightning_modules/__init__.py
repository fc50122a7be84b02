"""Training side: classifiers, data, callbacks, metrics and pictures; uses relprop."""

from lightning_modules.models.bert import BertClassifier
from lightning_modules.models.classifier import CLASSIFIERS
from lightning_modules.models.vit import ViTClassifier

__all__ = ["CLASSIFIERS", "BertClassifier", "ViTClassifier"]
