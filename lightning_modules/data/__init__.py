"""The data sets, by the name that a config gives them."""

from lightning_modules.data.base import DATAMODULES, DataModule, ImageDataModule
from lightning_modules.data.graphs.base import GraphDataModule
from lightning_modules.data.graphs.coloured import ColouredEdgesDataModule
from lightning_modules.data.graphs.digits import DigitGraphsDataModule
from lightning_modules.data.graphs.jsonl import GraphFilesDataModule
from lightning_modules.data.images.digits import DigitsDataModule
from lightning_modules.data.images.episodes_of_digits import DigitEpisodesDataModule
from lightning_modules.data.images.episodes_of_folders import FolderEpisodesDataModule
from lightning_modules.data.images.folder import ImageFolderDataModule
from lightning_modules.data.images.imagenet import (
    ImageNetDataModule,
    ImageNetSegmentationDataModule,
)
from lightning_modules.data.images.pets import PetsDataModule
from lightning_modules.data.images.tars import ImageTarsDataModule
from lightning_modules.data.rows.hf import HFDataModule
from lightning_modules.data.sampling import EpochSampler
from lightning_modules.data.texts.base import TextDataModule
from lightning_modules.data.texts.batches import TextCollator
from lightning_modules.data.texts.eraser import EraserDataModule
from lightning_modules.data.texts.reviews import ReviewsDataModule
from lightning_modules.data.texts.sst import SSTDataModule
from lightning_modules.data.texts.table import TextTableDataModule
from lightning_modules.data.texts.tokenizers import tokenizer_from_config

__all__ = [
    "DATAMODULES",
    "ColouredEdgesDataModule",
    "DataModule",
    "DigitEpisodesDataModule",
    "DigitGraphsDataModule",
    "DigitsDataModule",
    "EpochSampler",
    "EraserDataModule",
    "FolderEpisodesDataModule",
    "GraphDataModule",
    "GraphFilesDataModule",
    "HFDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "ImageNetDataModule",
    "ImageNetSegmentationDataModule",
    "ImageTarsDataModule",
    "PetsDataModule",
    "ReviewsDataModule",
    "SSTDataModule",
    "TextCollator",
    "TextDataModule",
    "TextTableDataModule",
    "tokenizer_from_config",
]
