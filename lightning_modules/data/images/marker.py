"""Coloured patches on pictures, a colour a class."""

from __future__ import annotations

import colorsys

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_modules.data.base import ImageDataModule
from lightning_modules.data.marker import OPTION, Marker, marker_generator
from lightning_modules.data.sampling import epoch_and_index
from lightning_modules.utils.options import check_option

SPLIT_NUMBERS = {"train": 0, "val": 1, "test": 2}
PART = 8  # a marker's side is by default this part of a picture's


class MarkedImages(Dataset):
    """Pictures of a data set, some with a coloured square at a random place.

    The square is put on the finished input, over what augmentation and erasing have made of the
    picture. Its colour is normalised as the picture is, so that it is the same as on the pixels.
    Where it lies, and its class, depend on (seed, split, epoch, index) alone.

    Masks that the pictures have lose the square. Where ``makes_masks``, the mask of a picture with
    a square is all but the square: True where it may count. A picture without a square has
    ``has_mask`` False. All of it may count, which tells nothing, and a mask that is True everywhere
    would be counted among those that are kept to.

    Args:
        dataset: of samples with ``image`` and an int ``label``.
        marker: how often there is a square, and of which class.
        colours: of each class, [C, 3], normalised.
        size: side of the square in pixels.
        key: seed and number of the split.
        makes_masks: whether samples get a mask of the square.
    """

    def __init__(
        self,
        dataset: Dataset,
        marker: Marker,
        colours: Tensor,
        size: int,
        key: tuple[int, int],
        makes_masks: bool,
    ) -> None:
        self.dataset = dataset
        self.marker = marker
        self.colours = colours
        self.size = size
        self.key = key
        self.makes_masks = makes_masks

    @property
    def samples(self) -> list:
        return self.dataset.samples

    @property
    def labels(self) -> list[int]:
        return [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        sample = dict(self.dataset[key])
        height, width = sample["image"].shape[-2:]
        of_class, rng = self._draw(key)
        if self.makes_masks:
            there = of_class is not None
            sample |= {"mask": torch.full((height, width), there), "has_mask": there}
        if of_class is None:
            return sample
        row, column = rng.integers((height - self.size + 1, width - self.size + 1)).tolist()
        place = (..., slice(row, row + self.size), slice(column, column + self.size))
        filled = {"image": self.colours[of_class, :, None, None], "mask": torch.tensor(False)}
        for name in filled.keys() & sample.keys():
            sample[name] = sample[name].clone()
            sample[name][place] = filled[name]
        return sample

    def take_masks(self, *given) -> None:
        """Give the pictures masks, see :class:`.folder.TrainImages`."""
        self.dataset.take_masks(*given)

    def with_square(self) -> list[int]:
        """Indices of the samples that have a square; of training samples, in epoch 0."""
        return [index for index in range(len(self)) if self._draw(index)[0] is not None]

    def _draw(self, key: int | tuple[int, int]) -> tuple[int | None, np.random.Generator]:
        """The class of the square of a sample, if it has one, and what draws its place."""
        epoch, index = epoch_and_index(key)
        rng = marker_generator(*self.key, epoch, index)
        return self.marker.draw(rng, self.samples[index][1], len(self.colours)), rng


def mark(data: ImageDataModule, marker: Marker, makes_masks: bool) -> None:
    """Put markers on the pictures of data that are complete, and give them further test sets.

    Raises:
        ValueError: the marker is larger than an input.
    """
    config, classes = data.input_config, len(data.class_names)
    side = min(config["input_size"][1:])
    size = max(1, side // PART) if marker.size is None else marker.size
    check_option(f"{OPTION}.size", size, size <= side, f"1 to {side}, the size of the inputs")
    colours = torch.tensor([colorsys.hsv_to_rgb(i / classes, 1, 1) for i in range(classes)])
    colours = (colours - torch.tensor(config["mean"])) / torch.tensor(config["std"])

    def marked(split: str, marker: Marker) -> MarkedImages:
        dataset, key = getattr(data, f"{split}_dataset"), (data.seed, SPLIT_NUMBERS[split])
        return MarkedImages(dataset, marker, colours, size, key, makes_masks)

    tests = {name: marked("test", x) for name, x in marker.of_tests(classes).items()}
    data.train_dataset, data.val_dataset = marked("train", marker), marked("val", marker)
    data.test_dataset = tests.pop("test")
    data.test_sets = tests
