"""Training side: classifiers, data, callbacks, metrics and pictures; uses relprop."""

from lightning_modules.vit import ViTClassifier

CLASSIFIERS = {"vit": ViTClassifier}

__all__ = ["CLASSIFIERS", "ViTClassifier"]
