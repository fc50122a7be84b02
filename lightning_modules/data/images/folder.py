"""Images in folders, by class or beside a table, optionally with masks of the object."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset, Subset
from torchvision.transforms import Compose

from lightning_modules.data.base import DATAMODULES, DataModule, option_of, say_if_few
from lightning_modules.data.classes import check_some_left, chosen_classes, new_labels
from lightning_modules.data.folders import say_left_out
from lightning_modules.data.images.base import AugmentedDataModule
from lightning_modules.data.images.class_folders import (
    LAYOUT,
    SAMPLES,
    Samples,
    find_classed,
    find_masks,
)
from lightning_modules.data.images.files import IMAGE_ENDINGS, read_image, read_mask
from lightning_modules.data.images.labelled_folders import find_labelled
from lightning_modules.data.images.marker import MarkedImages, mark
from lightning_modules.data.images.paired import PairedTransform
from lightning_modules.data.images.transforms import make_mask_transform, seeded
from lightning_modules.data.labels import Label
from lightning_modules.data.marker import Marker
from lightning_modules.data.sampling import epoch_and_index
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import PathThere, check_option
from lightning_modules.utils.terminal import counted, tell

Read = Callable[..., Image.Image]


class TrainImages(Dataset):
    """Augmented images: `{"image": float [3, H, W], "label": int or float [C]}`.

    A sample depends on (seed, epoch, index) alone. Once it is given masks, it has two more entries:

        mask: bool [H, W], True on the object where the augmentation has left it in the image;
            without a mask, False everywhere
        has_mask: bool; only where some of the images have no mask

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
        self.masks: Mapping[str, str] = {}

    def take_masks(self, masks: Mapping[str, str], transform: PairedTransform) -> None:
        """Give samples masks.

        Args:
            masks: their paths, by the path of their image.
            transform: as that of the images, for both.
        """
        self.masks, self.paired = masks, transform

    @property
    def labels(self) -> list[Label]:
        return [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        epoch, index = epoch_and_index(key)
        path, label = self.samples[index]
        picture, entropy = self.read(path), (self.seed, epoch, index)
        if path in self.masks:
            mask = mask_of(picture, path, self.masks[path])
            image, mask = self.paired(picture, mask, *entropy)
        else:
            with seeded(*entropy):
                image = self.transform(picture)
            mask = nowhere(image)
        sample = {"image": image, "label": collated(label)}
        if self.masks:
            sample["mask"] = mask
        if 0 < len(self.masks) < len(self.samples):
            sample["has_mask"] = path in self.masks
        return sample


class EvalImages(Dataset):
    """Images of val or test: `{"image": float [3, H, W], "label": int or float [C]}`; if any of
    them has a mask, a sample has two more entries:

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
        sample = {"image": self.transform(image), "label": collated(label)}
        if path in self.masks:
            mask = self.mask_transform(mask_of(image, path, self.masks[path]))[0] > 0
            sample |= {"mask": mask, "has_mask": True}
        elif self.masks:
            sample |= {"mask": nowhere(sample["image"]), "has_mask": False}
        return sample


def mask_of(image: Image.Image, path: str, mask_path: str) -> Image.Image:
    """The mask in a file, in mode "L", of the size of its image, which is that at ``path``."""
    mask = read_mask(mask_path)
    if mask.size != image.size:
        raise InputError(
            f"{mask_path}: {mask.width}x{mask.height} pixels; accepted: the "
            f"{image.width}x{image.height} pixels of its image {path}"
        )
    return mask


def nowhere(image: torch.Tensor) -> torch.Tensor:
    """The mask of an image [3, H, W] that has none: bool [H, W]."""
    return torch.zeros(image.shape[-2:], dtype=torch.bool)


def collated(label: Label) -> int | torch.Tensor:
    """A label as PyTorch's default collate takes it."""
    return label if isinstance(label, int) else torch.tensor(label, dtype=torch.float32)


def with_mask(dataset: Dataset) -> list[int]:
    """Indices of the samples of a data set that have a mask: some, all or none."""
    if isinstance(dataset, Subset):
        there = set(with_mask(dataset.dataset))
        return [place for place, index in enumerate(dataset.indices) if index in there]
    if isinstance(dataset, MarkedImages):
        return dataset.with_square() if dataset.makes_masks else with_mask(dataset.dataset)
    if isinstance(dataset, (TrainImages, EvalImages)):
        return [index for index, (path, _) in enumerate(dataset.samples) if path in dataset.masks]
    return list(range(len(dataset))) if "mask" in dataset[0] else []


@DATAMODULES.register("image_folder")
class ImageFolderDataModule(AugmentedDataModule):
    """Images in folders, a folder a class:

        root/train/<class>/*   the classes are the folders of train, sorted by name
        root/val/<class>/*     no class that train lacks
        root/test/<class>/*    optional: without it, val serves as test
        root/masks/<split>/<class>/<same stem>.*
                               optional, for some or all of the images: see `read_mask`; those
                               of train are read for guidance alone

    Images are files of IMAGE_ENDINGS; what else lies there is left out, and told. What is hidden
    (`.ipynb_checkpoints`, `Thumbs.db`) is neither class nor image nor mask. See `read_image`.

    With several labels or numbers a table says what is in a picture, and there are no classes:

        root/<split>/**/*        the images, in any folders
        root/<split>/labels.csv  a row an image: its path in that folder, and its labels; or
                                 labels.tsv, labels.jsonl, labels.parquet

    Several labels are a list in one column, in a text parted by ``label_separator``, or a column of
    0 and 1 each; an image may have none. Numbers are a column each. Masks are of one object, and
    not read with several labels.

    Args:
        root: folder of the data set.
        labels: name of the table in the folder of each split. None: a folder a class; with several
            labels or numbers, a table that is named labels.
        file_column: the column of the paths.
        label_column: the column of the label or the list of labels; or the columns, one a label or
            a number. None: all others.
        label_separator: what parts several labels in a text.
        classes: names of the classes that are trained on and tested, in the order of their labels.
            None: all.
        marker: options of :class:`.marker.Marker`: a share of the inputs has a square of a class's
            colour at a random place. In a folder with ``masks`` the masks there lose it; in one
            without, all but the square is the mask of an input that has one. None: there are none.
        options: those of AugmentedDataModule.

    Raises:
        FileNotFoundError: a folder, a table, or all images of a split or of a class of train, are
            missing.
        ValueError: an argument is out of its range, or a split has a class that train lacks.
        InputError: there is a folder of masks with none of any sample, or with two of one; a table
            and the images do not belong together, or a label is none; or, when a sample is read:
            a file is no image, or a mask has another size than its image.
    """

    tasks = ("multiclass", "multilabel", "regression")

    def __init__(
        self,
        root: PathThere,
        *,
        labels: str | None = None,
        file_column: str = "file",
        label_column: str | list[str] | None = None,
        label_separator: str = "|",
        classes: list[str | int] | None = None,
        marker: dict[str, Any] | None = None,
        **options,
    ) -> None:
        super().__init__(**options)
        marked = Marker.of(marker, self.task, sized=True)
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; accepted: {LAYOUT}")
        self.folder = folder
        splits = {split: folder / split for split in ("train", "val", "test")}
        if not splits["test"].is_dir():
            tell(f"{splits.pop('test')}: no such folder, so val serves as test")
        if labels is None and self.task == "multiclass":
            check_option("label_column", label_column, label_column is None, "null without labels")
            self.class_names, samples, others = find_classed(splits)
            say_left_out(folder, others, SAMPLES)
        else:
            self.class_names, samples, others = find_labelled(
                splits, labels, file_column, label_column, label_separator, self.task
            )
            say_left_out(folder, others, f"images ({' '.join(IMAGE_ENDINGS)}) and their table")
        self.found = self.class_names, dict(samples)
        train_samples = samples.pop("train")
        self.train_dataset = TrainImages(train_samples, self.train_transform, self.seed)
        masks = {}
        if self.task != "multilabel":
            masks = find_masks(folder, samples)
        elif (folder / "masks").is_dir():
            tell(f"{folder / 'masks'}: left out, for it does not say which label a mask is of")
        datasets = {
            split: EvalImages(of_split, self.eval_transform, masks.get(split))
            for split, of_split in samples.items()
        }
        self.val_dataset = datasets["val"]
        self.test_dataset = datasets.get("test", self.val_dataset)
        self.class_names = chosen_classes(classes, self.class_names, self.task, marked is not None)
        if classes is not None:
            self.take_classes(self.class_names)
        if marked is not None:
            mark(self, marked, makes_masks=not (folder / "masks").is_dir())

    def take_classes(self, trained: Sequence[str]) -> None:
        if self.test_sets:
            super().take_classes(trained)  # the colours of its markers are those of all classes
        names, found = self.found
        datasets = {
            "train": self.train_dataset,
            "val": self.val_dataset,
            "test": self.test_dataset,
        }
        for split, samples in found.items():
            kept = trained if split == "train" else self.class_names
            labels = new_labels(names, kept, self.class_names)
            datasets[split].samples = [(path, labels[x]) for path, x in samples if x in labels]
        check_some_left({x: datasets[x].samples for x in found}, self.class_names)

    def mask_train(self, instead: str = "guidance=null") -> None:
        dataset = self.train_dataset
        if not (self.folder / "masks" / "train").is_dir():
            count = len(with_mask(dataset))  # a marker gives masks without files
            if count == 0:
                DataModule.mask_train(self, instead)
            say_if_few(count, dataset, "mask", option_of(instead))
            return
        if self.task == "multilabel":
            raise InputError(
                f"{option_of(instead)}: {self.folder / 'masks'} does not say which of several "
                f"labels a mask is of; accepted: task=multiclass, task=regression, or {instead}"
            )
        transform = PairedTransform(self.train_transform, self.auto_augment)
        masks = find_masks(self.folder, {"train": dataset.samples})["train"]
        dataset.take_masks(masks, transform)
        say_if_few(len(masks), dataset, "mask", option_of(instead))

    def annotated(self, dataset: EvalImages) -> str:
        count = len(with_mask(dataset))
        return counted(count, "mask") if count else ""

    def example(self) -> list[str]:
        return ["--input", self.test_dataset.samples[0][0]]
