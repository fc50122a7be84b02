"""Episodes of scenes with a handwritten digit among distractors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from lightning_modules.data.base import DATAMODULES
from lightning_modules.data.images.digits import (
    INPUT_CONFIG,
    NAMES,
    TILES,
    Sources,
    arrange,
    as_input,
    of_classes,
    paste,
    split_sources,
)
from lightning_modules.data.images.episodes import EpisodesDataModule, split_classes
from lightning_modules.utils.options import Range


class ScenePool:
    """Scenes of some digits, as :class:`.digits.DigitScenes` has them.

    A scene has a mask, True on the ink of its digit. Its distractors are of the same digits.

    Args:
        sources: the digits of a split.
        class_names: those that scenes are made of.
    """

    def __init__(self, sources: Sources, class_names: Sequence[str]) -> None:
        self.class_names = list(class_names)
        self.sources = of_classes(sources, self.class_names, self.class_names)
        self.counts = [int((self.sources.classes == i).sum()) for i in range(len(class_names))]

    def draw(self, label: int, count: int, rng: np.random.Generator) -> dict[str, Tensor]:
        of_class = np.flatnonzero(self.sources.classes == label)
        scenes, masks = [], []
        for first in rng.choice(of_class, count, replace=False):
            others = rng.choice(len(self.sources.classes) - 1, TILES - 1, replace=False)
            tiles = self.sources.ink[[first, *(others + (others >= first))]]
            scene, corners = arrange(tiles, 1, rng)
            scenes.append(as_input(scene))
            masks.append(torch.from_numpy(paste(tiles[:1] > 0, corners[:1])))
        return {"image": torch.stack(scenes), "mask": torch.stack(masks)}


@DATAMODULES.register("digit_episodes")
class DigitEpisodesDataModule(EpisodesDataModule):
    """Episodes of handwritten digits, of which test has some that train has not.

    No handwritten digit is in two of train, val and test. Every scene has three distractors, so
    that a model must find the digit.

    Args:
        train_classes: the digits of train. None: those that are in neither val nor test.
        val_classes: None: those of test, of which val has other handwritten ones.
        test_classes: None: those that are not in train.
        options: those of EpisodesDataModule.

    Raises:
        InputError: a digit is unknown, or has too few handwritten ones for an episode; or a split
            has fewer digits than an episode.
    """

    def __init__(
        self,
        *,
        train_classes: list[str | int] | None = [0, 1, 2, 3, 4, 5, 6],  # noqa: B006 - only read
        val_classes: list[str | int] | None = None,
        test_classes: list[str | int] | None = None,
        way: Annotated[int, Range(2)] = 3,
        **options,
    ) -> None:
        super().__init__(way=way, **options)
        self.input_config = dict(INPUT_CONFIG)
        classes = split_classes(NAMES, train_classes, val_classes, test_classes)
        sources = split_sources(self.seed)
        self.take_pools({x: ScenePool(sources[x], names) for x, names in classes.items()})
