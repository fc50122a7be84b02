"""Images in folders, a folder a class, optionally with masks of the object for localisation."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import Dataset, Subset
from torchvision.transforms import Compose

from lightning_modules.data.base import DATAMODULES, epoch_and_index
from lightning_modules.data.folders import say_left_out
from lightning_modules.data.images.base import AugmentedDataModule
from lightning_modules.data.images.class_folders import (
    LAYOUT,
    SAMPLES,
    Samples,
    find_classes,
    find_masks,
    find_samples,
)
from lightning_modules.data.images.files import read_image, read_mask
from lightning_modules.data.images.transforms import make_mask_transform, seeded
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.terminal import counted, tell

Read = Callable[..., Image.Image]


class TrainImages(Dataset):
    """Augmented images: `{"image": float [3, H, W], "label": int}`.

    A sample depends on (seed, epoch, index) alone.

    Args:
        samples: (path, label) of every image; or what else ``read`` reads in place of a path.
        transform: from an RGB image to a normalised tensor, at random.
        seed: of the augmentation.
        read: gives the RGB image at a path.
    """

    def __init__(
        self, samples: Samples, transform: Compose, seed: int, read: Read = read_image
    ) -> None:
        self.samples = samples
        self.transform = transform
        self.seed = seed
        self.read = read

    @property
    def labels(self) -> list[int]:
        return [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = epoch_and_index(key)
        path, label = self.samples[index]
        image = self.read(path)
        with seeded(self.seed, epoch, index):
            return {"image": self.transform(image), "label": label}


class EvalImages(Dataset):
    """Images of val or test: `{"image": float [3, H, W], "label": int}`; if any of them has a mask,
    a sample has two more entries:

        has_mask: bool
        mask: bool [H, W], True on the object; without a mask, False everywhere, which tells nothing

    Args:
        samples: see TrainImages.
        transform: timm's evaluation transform.
        masks: paths of the masks, by the path of their image.
        read: see TrainImages.
    """

    def __init__(
        self,
        samples: Samples,
        transform: Compose,
        masks: Mapping[str, str] | None = None,
        read: Read = read_image,
    ) -> None:
        self.samples = samples
        self.transform = transform
        self.masks = masks or {}
        self.read = read
        self.mask_transform = make_mask_transform(transform)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        path, label = self.samples[index]
        image = self.read(path)
        sample = {"image": self.transform(image), "label": label}
        if path in self.masks:
            mask = self.mask_transform(self._read_mask_of(path, image))[0] > 0
            sample |= {"mask": mask, "has_mask": True}
        elif self.masks:
            nowhere = torch.zeros(sample["image"].shape[-2:], dtype=torch.bool)
            sample |= {"mask": nowhere, "has_mask": False}
        return sample

    def _read_mask_of(self, path: str, image: Image.Image) -> Image.Image:
        """The mask of an image, of its size, in mode "L"."""
        mask = read_mask(self.masks[path])
        if mask.size != image.size:
            raise InputError(
                f"{self.masks[path]}: {mask.width}x{mask.height} pixels; accepted: the "
                f"{image.width}x{image.height} pixels of its image {path}"
            )
        return mask


def with_mask(dataset: Dataset) -> list[int]:
    """Indices of the samples of a data set that have a mask: some, all or none."""
    if isinstance(dataset, Subset):
        there = set(with_mask(dataset.dataset))
        return [place for place, index in enumerate(dataset.indices) if index in there]
    if isinstance(dataset, EvalImages):
        return [index for index, (path, _) in enumerate(dataset.samples) if path in dataset.masks]
    return list(range(len(dataset))) if "mask" in dataset[0] else []


@DATAMODULES.register("image_folder")
class ImageFolderDataModule(AugmentedDataModule):
    """Images in folders, a folder a class:

        root/train/<class>/*   the classes are the folders of train, sorted by name
        root/val/<class>/*     no class that train lacks
        root/test/<class>/*    optional: without it, val serves as test
        root/masks/<split>/<class>/<same stem>.*
                               optional, for val and test, and for some or all of their images:
                               see `read_mask`

    Images are files of IMAGE_ENDINGS; what else lies there is left out, and told. What is hidden
    (`.ipynb_checkpoints`, `Thumbs.db`) is neither class nor image nor mask. See `read_image`.

    Args:
        root: folder of the data set.
        options: those of AugmentedDataModule.

    Raises:
        FileNotFoundError: a folder, or all images of a split or of a class of train, are missing.
        ValueError: an argument is out of its range, or a split has a class that train lacks.
        InputError: there is a folder of masks with none of any sample, or with two of one; or,
            when a sample is read: a file is no image, or a mask has another size than its image.
    """

    def __init__(self, root: str, **options) -> None:
        super().__init__(**options)
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; accepted: {LAYOUT}")
        self.class_names = find_classes(folder / "train")
        train_samples, others = find_samples(folder / "train", self.class_names)
        present = {label for _, label in train_samples}
        for label, name in enumerate(self.class_names):
            if label not in present:
                raise FileNotFoundError(f"{folder / 'train' / name}: no images; accepted: {LAYOUT}")
        self.train_dataset = TrainImages(train_samples, self.train_transform, self.seed)
        evaluated = {}
        for split in ("val", "test"):
            if split == "val" or (folder / split).is_dir():
                evaluated[split], more = find_samples(folder / split, self.class_names)
                others += more
        if "test" not in evaluated:
            tell(f"{folder / 'test'}: no such folder, so val serves as test")
        say_left_out(folder, others, SAMPLES)
        masks = find_masks(folder, evaluated)
        datasets = {
            split: EvalImages(samples, self.eval_transform, masks[split])
            for split, samples in evaluated.items()
        }
        self.val_dataset = datasets["val"]
        self.test_dataset = datasets.get("test", self.val_dataset)

    def annotated(self, dataset: EvalImages) -> str:
        count = len(with_mask(dataset))
        return counted(count, "mask") if count else ""

    def example(self) -> list[str]:
        return ["--input", self.test_dataset.samples[0][0]]
