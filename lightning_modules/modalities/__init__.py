"""What is known of a kind of input, a package each; found by name in ``MODALITIES``."""

from lightning_modules.modalities.base import MODALITIES, Modality, Part
from lightning_modules.modalities.explained import Explained
from lightning_modules.modalities.graphs.modality import Graphs
from lightning_modules.modalities.images.modality import Images
from lightning_modules.modalities.texts.modality import Texts

__all__ = ["MODALITIES", "Explained", "Graphs", "Images", "Modality", "Part", "Texts"]
