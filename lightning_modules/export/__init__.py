"""Trained classifiers as folders that their libraries load without us."""

from lightning_modules.export.base import EXPORTS, Export
from lightning_modules.export.hugging_face import HuggingFace
from lightning_modules.export.timm_folder import TimmFolder
from lightning_modules.export.weights import WeightsFile

__all__ = ["EXPORTS", "Export", "HuggingFace", "TimmFolder", "WeightsFile"]
