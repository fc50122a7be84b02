"""Images in folders, a folder a class, optionally with masks of the object for localisation."""

from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import Compose

from lightning_modules.data.base import ImageDataModule, epoch_and_index
from lightning_modules.data.image_files import (
    LAYOUT,
    find_classes,
    find_samples,
    read_image,
    read_mask,
)
from lightning_modules.data.image_transforms import (
    make_eval_transform,
    make_input_config,
    make_mask_transform,
    make_train_transform,
    seeded,
)
from lightning_modules.errors import InputError
from lightning_modules.names import one_line


class TrainImages(Dataset):
    """Augmented images: `{"image": float [3, H, W], "label": int}`.

    A sample depends on (seed, epoch, index) alone.

    Args:
        samples: (path, label) of every image.
        transform: from an RGB image to a normalised tensor, at random.
        seed: of the augmentation.
    """

    def __init__(self, samples: list[tuple[str, int]], transform: Compose, seed: int) -> None:
        self.samples = samples
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = epoch_and_index(key)
        path, label = self.samples[index]
        image = read_image(path)
        with seeded(self.seed, epoch, index):
            return {"image": self.transform(image), "label": label}


class EvalImages(Dataset):
    """Images of val or test: `{"image": float [3, H, W], "label": int, "mask": bool [H, W]}`.

    The mask is there only where the data set has a folder `masks`; for an image without a file in
    it, the mask is False everywhere.

    Args:
        root: folder of the data set.
        samples: (path, label) of every image.
        transform: timm's evaluation transform.
    """

    def __init__(self, root: Path, samples: list[tuple[str, int]], transform: Compose) -> None:
        self.root = root
        self.samples = samples
        self.transform = transform
        self.mask_transform = make_mask_transform(transform)
        self.has_masks = (root / "masks").is_dir()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        path, label = self.samples[index]
        image = read_image(path)
        sample = {"image": self.transform(image), "label": label}
        if self.has_masks:
            sample["mask"] = self.mask_transform(self._read_mask_of(path, image))[0] > 0
        return sample

    def _read_mask_of(self, path: str, image: Image.Image) -> Image.Image:
        """The mask of an image, of its size, in mode "L"."""
        mask_path = self.root / "masks" / Path(path).relative_to(self.root).with_suffix(".png")
        if not mask_path.is_file():
            return Image.new("L", image.size)
        mask = read_mask(mask_path)
        if mask.size != image.size:
            raise InputError(
                f"{mask_path}: {mask.width}x{mask.height} pixels; accepted: the "
                f"{image.width}x{image.height} pixels of its image {path}"
            )
        return mask


class ImageFolderDataModule(ImageDataModule):
    """Images in folders, a folder a class:

        root/train/<class>/*   the classes are the folders of train, sorted by name
        root/val/<class>/*     no class that train lacks
        root/test/<class>/*    optional: without it, val serves as test
        root/masks/<split>/<class>/<same stem>.png
                               optional, for val and test: not zero on the object

    Any mode of image becomes RGB, and EXIF rotation is applied.

    Args:
        root: folder of the data set.
        batch_size, num_workers, seed: see DataModule.
        image_size: height and width of the inputs, in pixels.
        transforms_of: timm model whose mean, std, interpolation, crop_pct and crop_mode apply.
            None: ImageNet's mean and std, bicubic, 0.875, center.
        auto_augment: timm's name of an AutoAugment, RandAugment or AugMix policy. None: none.
        random_erasing: probability that noise erases a rectangle of a training image.
        hflip: probability that a training image is mirrored.
        scale: least and greatest share of a training image that its random crop covers.

    Raises:
        FileNotFoundError: a folder, or all images of a split or of a class of train, are missing.
        ValueError: an argument is out of its range, or a split has a class that train lacks.
        InputError: when a sample is read: a file is no image, or a mask has another size than
            its image.
    """

    def __init__(
        self,
        root: str,
        batch_size: int = 64,
        num_workers: int = 2,
        seed: int = 0,
        image_size: int = 224,
        transforms_of: str | None = None,
        auto_augment: str | None = "rand-m9-mstd0.5-inc1",
        random_erasing: float = 0.25,
        hflip: float = 0.5,
        scale: list[float] = [0.08, 1.0],  # noqa: B006 - a list in the config too; only read
    ) -> None:
        super().__init__(batch_size, num_workers, seed)
        self.input_config = make_input_config(image_size, transforms_of)
        train_transform = make_train_transform(
            self.input_config, auto_augment, random_erasing, hflip, scale
        )
        eval_transform = make_eval_transform(self.input_config)

        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; accepted: {LAYOUT}")
        self.class_names = find_classes(folder / "train")
        train_samples = find_samples(folder / "train", self.class_names)
        present = {label for _, label in train_samples}
        for label, name in enumerate(self.class_names):
            if label not in present:
                raise FileNotFoundError(f"{folder / 'train' / name}: no images; accepted: {LAYOUT}")
        self.train_dataset = TrainImages(train_samples, train_transform, seed)
        val_samples = find_samples(folder / "val", self.class_names)
        self.val_dataset = EvalImages(folder, val_samples, eval_transform)
        if (folder / "test").is_dir():
            test_samples = find_samples(folder / "test", self.class_names)
            self.test_dataset = EvalImages(folder, test_samples, eval_transform)
        else:
            self.test_dataset = self.val_dataset
            rank_zero_info(f"{one_line(folder / 'test')}: no such folder, so val serves as test")
