"""The image data sets, by the name that a config gives them."""

from lightning_modules.data.base import EpochSampler, ImageDataModule
from lightning_modules.data.digits import DigitsDataModule
from lightning_modules.data.image_folder import ImageFolderDataModule

DATAMODULES: dict[str, type[ImageDataModule]] = {
    "digits": DigitsDataModule,
    "image_folder": ImageFolderDataModule,
}

__all__ = [
    "DATAMODULES",
    "DigitsDataModule",
    "EpochSampler",
    "ImageDataModule",
    "ImageFolderDataModule",
]
