"""Training side: classifiers, data, callbacks, metrics and pictures; uses relprop."""

from lightning_modules.models.bert import BertClassifier
from lightning_modules.models.vit import ViTClassifier

CLASSIFIERS = {"vit": ViTClassifier, "bert": BertClassifier}

__all__ = ["CLASSIFIERS", "BertClassifier", "ViTClassifier"]
