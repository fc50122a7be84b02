"""What the data sets of pictures share: the size of the inputs, and the augmentation."""

from typing import Annotated

from lightning_modules.data.base import ImageDataModule
from lightning_modules.data.images.processors import is_of_hugging_face, processed_config
from lightning_modules.data.images.transforms import (
    make_eval_transform,
    make_input_config,
    make_train_transform,
)
from lightning_modules.utils.options import Count, Range

SIZE = 224  # of the inputs, in pixels
Share = Annotated[float, Range(0, 1)]
Area = Annotated[float, Range(above=0, most=1)]  # a share of a picture


class ResizedDataModule(ImageDataModule):
    """A data set of pictures of any size.

    Attributes:
        eval_transform: from an RGB picture to a normalised tensor [3, H, W].

    Args:
        image_size: height and width of the inputs, in pixels. None: 224, or what the image
            processor of ``transforms_of`` makes.
        transforms_of: timm model whose mean, std, interpolation, crop_pct and crop_mode apply; or
            hub id or folder of a model of Hugging Face, whose image processor's do. None:
            ImageNet's mean and std, bicubic, 0.875, center.
        options: those of DataModule.
    """

    def __init__(
        self,
        *,
        image_size: Count | None = None,
        transforms_of: str | None = None,
        **options,
    ) -> None:
        super().__init__(**options)
        if transforms_of is not None and is_of_hugging_face(transforms_of):
            self.input_config = processed_config(transforms_of, image_size)
        else:
            self.input_config = make_input_config(image_size or SIZE, transforms_of)
        self.eval_transform = make_eval_transform(self.input_config)


class AugmentedDataModule(ResizedDataModule):
    """A data set of pictures of any size, which are augmented for training.

    Attributes:
        train_transform: as eval_transform, at random.
        auto_augment: the policy in it.

    Args:
        auto_augment: timm's name of an AutoAugment, RandAugment or AugMix policy. None: none.
        random_erasing: probability that noise erases a rectangle of a training image.
        hflip: probability that a training image is mirrored.
        scale: least and greatest share of a training image that its random crop covers.
        options: those of ResizedDataModule.
    """

    def __init__(
        self,
        *,
        auto_augment: str | None = "rand-m9-mstd0.5-inc1",
        random_erasing: Share = 0.25,
        hflip: Share = 0.5,
        scale: list[Area] = [0.08, 1.0],  # noqa: B006 - a list in the config too; only read
        batch_size: Count = 64,
        num_workers: Annotated[int, Range(0)] = 2,
        **options,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, **options)
        self.auto_augment = auto_augment
        self.train_transform = make_train_transform(
            self.input_config, auto_augment, random_erasing, hflip, scale
        )
