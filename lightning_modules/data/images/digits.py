"""Scenes of handwritten digits among distractors, with the ink as ground truth for explanations.

Each scene is 32x32 and holds a digit in its native 8x8 pixels and three distractors: other digits
whose pixels are shuffled, so that they have a digit's ink but not its shape. A model must find the
digit to name it, and an explanation should point at its ink. Offline (scikit-learn carries the
digits), generated on the fly, and different in every epoch of training.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.linalg import hadamard
from torch.utils.data import Dataset

from lightning_modules.data.base import DATAMODULES, ImageDataModule
from lightning_modules.data.classes import chosen_classes
from lightning_modules.data.handwritten import (
    CLASSES,
    NAMES,
    TILE,
    Sources,
    of_classes,
    split_sources,
)
from lightning_modules.data.marker import Marker, marker_generator
from lightning_modules.data.sampling import epoch_and_index
from lightning_modules.utils.options import Count

SCENE, STEP = 32, 4  # pixels: a scene's side, the grid of positions
TILES = 4  # digits and distractors in a scene
MEAN = STD = 0.5
SPLIT_NUMBERS = {"train": 0, "val": 1, "test": 2, "pairs": 3}
INPUT_CONFIG = {
    "input_size": [3, SCENE, SCENE],
    "mean": [MEAN] * 3,
    "std": [STD] * 3,
    "interpolation": "bicubic",
    "crop_pct": 1.0,
}

# The top left corners (row, column) a tile may have, [49, 2], and which pairs of corners would let
# their tiles overlap, [49, 49].
CORNERS = np.stack(np.mgrid[0 : SCENE - TILE + 1 : STEP, 0 : SCENE - TILE + 1 : STEP], -1)
CORNERS = CORNERS.reshape(-1, 2)
OVERLAP = (np.abs(CORNERS[:, None] - CORNERS[None]) < TILE).all(-1)

# The ink of a marker of each class, 0 or 1, [10, 4, 4]: 8 of 16 pixels, of which any two share 4.
MARKERS = (hadamard(STEP * STEP)[1 : CLASSES + 1].reshape(-1, STEP, STEP) > 0).astype(np.float32)


def choose_corners(rng: np.random.Generator) -> np.ndarray:
    """Corners of TILES tiles that do not overlap: int [TILES, 2]. There is always room for four."""
    free = np.ones(len(CORNERS), dtype=bool)
    chosen = []
    for draw in rng.random(TILES):
        candidates = np.flatnonzero(free)
        corner = candidates[int(draw * len(candidates))]
        free &= ~OVERLAP[corner]
        chosen.append(corner)
    return CORNERS[chosen]


def paste(tiles: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """An empty scene [32, 32] with tiles [n, 8, 8] at corners [n, 2]; of the tiles' dtype."""
    scene = np.zeros((SCENE, SCENE), tiles.dtype)
    for tile, (row, column) in zip(tiles, corners.tolist(), strict=True):
        scene[row : row + TILE, column : column + TILE] = tile
    return scene


def arrange(
    tiles: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A scene [32, 32] of TILES tiles [n, 8, 8], and their corners [n, 2].

    All but the first ``count`` become distractors, in place: their pixels are shuffled.
    """
    distractors = tiles[count:].reshape(-1, TILE * TILE)
    rng.permuted(distractors, axis=1, out=distractors)
    corners = choose_corners(rng)
    return paste(tiles, corners), corners


def as_input(scene: np.ndarray) -> torch.Tensor:
    """A scene [32, 32] as a model has it, grey in three channels, -1 to 1: [3, 32, 32]."""
    return torch.from_numpy(np.repeat(((scene - MEAN) / STD)[None], 3, axis=0))


def empty_patches(corners: np.ndarray) -> np.ndarray:
    """Corners of the patches, STEP pixels wide, that no tile at `corners` [n, 2] covers: [m, 2]."""
    covered = np.zeros((SCENE // STEP, SCENE // STEP), dtype=bool)
    for row, column in corners // STEP:
        covered[row : row + TILE // STEP, column : column + TILE // STEP] = True
    return STEP * np.argwhere(~covered)


class DigitScenes(Dataset):
    """Scenes with one digit: `{"image": [3, 32, 32], "label": int, "mask": bool [32, 32]}`.

    The image is grey in three channels, -1 (paper) to 1 (ink); the mask is True on the digit's ink.
    A sample depends on (seed, split, epoch, index) alone.

    Args:
        sources: the digits to make scenes of, also the distractors.
        size: number of scenes, each epoch.
        seed: of the scenes.
        split: name of the split, a key of SPLIT_NUMBERS.
        marker: of the first digit's class; it fills an empty patch. None: there is none.
    """

    num_digits = 1

    def __init__(
        self, sources: Sources, size: int, seed: int, split: str, marker: Marker | None = None
    ) -> None:
        self.sources = sources
        self.size = size
        self.seed = seed
        self.split = split
        self.marker = marker

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        image, labels, masks = self._scene(key)
        return {"image": image, "label": int(labels[0]), "mask": torch.from_numpy(masks[0])}

    def _scene(
        self, key: int | tuple[int, int]
    ) -> tuple[torch.Tensor, np.ndarray, list[np.ndarray]]:
        """Image [3, 32, 32], and of every digit its class and its mask [32, 32]."""
        entropy = self._entropy(key)
        rng = np.random.default_rng(entropy)
        count = self._count(rng)
        chosen, labels = self._choose_sources(rng, count)
        tiles = self.sources.ink[chosen]
        scene, corners = arrange(tiles, count, rng)
        if self.marker is not None:
            self._mark(scene, corners, int(labels[0]), marker_generator(*entropy))
        image = as_input(scene)
        masks = [paste(tiles[i : i + 1] > 0, corners[i : i + 1]) for i in range(count)]
        return image, labels, masks

    def _mark(
        self, scene: np.ndarray, corners: np.ndarray, label: int, rng: np.random.Generator
    ) -> None:
        """Put a marker into a scene with tiles at corners, if it is to have one."""
        row, column = rng.choice(empty_patches(corners))
        of_class = self.marker.draw(rng, label, CLASSES)
        if of_class is not None:
            scene[row : row + STEP, column : column + STEP] = MARKERS[of_class]

    def _entropy(self, key: int | tuple[int, int]) -> tuple[int, int, int]:
        """What the random numbers of a scene are made of."""
        epoch, index = epoch_and_index(key)
        if not 0 <= index < self.size:
            raise IndexError(f"{self.split} has scenes 0 to {self.size - 1}, not {index}")
        number = epoch * self.size + index
        return self.seed, SPLIT_NUMBERS[self.split], number

    def _count(self, rng: np.random.Generator) -> int:
        """How many digits a scene has."""
        return self.num_digits

    def _choose_sources(
        self, rng: np.random.Generator, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """TILES different sources, digits first, and the digits' classes, which all differ."""
        while True:
            chosen = rng.choice(len(self.sources.classes), TILES, replace=False)
            labels = self.sources.classes[chosen[:count]]
            if len(set(labels.tolist())) == count:
                return chosen, labels


class SeveralDigits(DigitScenes):
    """Scenes with one to three digits of different classes; the other tiles are distractors.

    A sample is `{"image": [3, 32, 32], "label": float [10], "mask": bool [10, 32, 32]}`: 1 for each
    digit that is there, and the ink of each.
    """

    most = 3

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        image, labels, masks = self._scene(key)
        label = torch.zeros(CLASSES)
        mask = torch.zeros(CLASSES, SCENE, SCENE, dtype=torch.bool)
        label[labels], mask[labels] = 1, torch.from_numpy(np.stack(masks))
        return {"image": image, "label": label, "mask": mask}

    def _count(self, rng: np.random.Generator) -> int:
        return int(rng.integers(1, self.most + 1))


class DigitInk(DigitScenes):
    """Scenes with one digit, and how much ink it has.

    A sample is `{"image": [3, 32, 32], "label": float [1], "mask": bool [32, 32]}`; the label is
    the sum of the digit's ink, in rows of eight full pixels.
    """

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        image, _, masks = self._scene(key)
        grey = image[0].numpy() * STD + MEAN
        label = torch.tensor([grey[masks[0]].sum() / TILE], dtype=torch.float32)
        return {"image": image, "label": label, "mask": torch.from_numpy(masks[0])}


class DigitPairs(DigitScenes):
    """Scenes with two digits of different classes and two distractors, to explain either class.

    A sample is `{"image": [3, 32, 32], "labels": long [2], "masks": bool [2, 32, 32]}`, the masks
    in the order of the labels.
    """

    num_digits = 2

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        image, labels, masks = self._scene(key)
        return {
            "image": image,
            "labels": torch.from_numpy(labels),
            "masks": torch.from_numpy(np.stack(masks)),
        }


# What the scenes of a task are.
SCENES = {"multiclass": DigitScenes, "multilabel": SeveralDigits, "regression": DigitInk}


@DATAMODULES.register("digits")
class DigitsDataModule(ImageDataModule):
    """Scenes of handwritten digits; no handwritten digit is in two of train, val and test.

    The task is to name the one digit, to name the one to three digits (``multilabel``), or to say
    how much ink the one digit has (``regression``).

    Args:
        train_size: scenes an epoch of training; every epoch has fresh ones.
        val_size: scenes in val.
        test_size: scenes in test.
        pairs_size: scenes with two digits, made of the digits of test. They have no marker.
        classes: the digits that scenes are made of, distractors among them, in the order of their
            labels. None: all ten.
        marker: options of :class:`.marker.Marker`: a share of the scenes has an ink pattern of a
            class in an empty patch. It is in no mask. None: there are none.
        options: those of DataModule.
    """

    tasks = ("multiclass", "multilabel", "regression")

    def __init__(
        self,
        *,
        train_size: Count = 6400,
        val_size: Count = 1000,
        test_size: Count = 1000,
        pairs_size: Count = 500,
        classes: list[str | int] | None = None,
        marker: dict[str, Any] | None = None,
        batch_size: Count = 128,
        **options,
    ) -> None:
        super().__init__(batch_size=batch_size, **options)
        names = chosen_classes(classes, NAMES, self.task, marker is not None)
        self.class_names = ["ink"] if self.task == "regression" else names
        self.input_config = dict(INPUT_CONFIG)
        seed, sources = self.seed, split_sources(self.seed)
        scenes, marked = SCENES[self.task], Marker.of(marker, self.task)
        self.train_dataset = scenes(sources["train"], train_size, seed, "train", marked)
        self.val_dataset = scenes(sources["val"], val_size, seed, "val", marked)
        tests = {"test": None} if marked is None else marked.of_tests(CLASSES)
        self.test_sets = {
            name: scenes(sources["test"], test_size, seed, "test", of_test)
            for name, of_test in tests.items()
        }
        self.test_dataset = self.test_sets.pop("test")
        if self.task != "regression":
            self.pairs_dataset = DigitPairs(sources["test"], pairs_size, seed, "pairs")
        if classes is not None:
            self.take_classes(self.class_names)

    def take_classes(self, trained: Sequence[str]) -> None:
        if self.test_sets:
            super().take_classes(trained)  # its markers are of all classes
        for dataset in (self.train_dataset, self.val_dataset, self.test_dataset):
            kept = trained if dataset is self.train_dataset else self.class_names
            of_split = split_sources(self.seed)[dataset.split]
            dataset.sources = of_classes(of_split, kept, self.class_names)
        self.pairs_dataset.sources = self.test_dataset.sources
