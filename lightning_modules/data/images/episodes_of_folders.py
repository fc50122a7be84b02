"""Episodes of pictures in folders, a folder a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import Compose

from lightning_modules.data.base import DATAMODULES
from lightning_modules.data.folders import say_left_out
from lightning_modules.data.images.base import ResizedDataModule
from lightning_modules.data.images.class_folders import SAMPLES, find_classes, find_samples
from lightning_modules.data.images.episodes import EpisodesDataModule, split_classes
from lightning_modules.data.images.files import IMAGE_ENDINGS, read_image
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import PathThere

LAYOUT = f"root/<class>/<image> ({' '.join(IMAGE_ENDINGS)})"


class FilePool:
    """Pictures in files.

    Args:
        paths: of the pictures of each class, by its name.
        transform: from an RGB picture to a normalised tensor.
    """

    def __init__(self, paths: Mapping[str, Sequence[str]], transform: Compose) -> None:
        self.class_names, self.paths = list(paths), list(paths.values())
        self.counts = [len(x) for x in self.paths]
        self.transform = transform

    def draw(self, label: int, count: int, rng: np.random.Generator) -> dict[str, Tensor]:
        paths = self.paths[label]
        chosen = rng.choice(len(paths), count, replace=False)
        return {"image": torch.stack([self.transform(read_image(paths[i])) for i in chosen])}


@DATAMODULES.register("folder_episodes")
class FolderEpisodesDataModule(EpisodesDataModule, ResizedDataModule):
    """Episodes of the pictures in a folder of classes, which are split by name: ``root/<class>/*``.

    Every class of an episode has as many shots and queries; a class needs as many pictures. They
    are prepared as in evaluation, without augmentation.

    Args:
        root: folder of the class folders.
        train_classes: those of train. None: those that are in neither val nor test.
        val_classes: None: those of test, on whose pictures the best epoch is then chosen.
        test_classes: None: those that are not in train.
        options: those of EpisodesDataModule and ResizedDataModule.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        InputError: a class is unknown, is in train and in another split, or has too few pictures
            for an episode; or a split has fewer classes than an episode.
    """

    def __init__(
        self,
        root: PathThere,
        *,
        train_classes: list[str | int] | None = None,
        val_classes: list[str | int] | None = None,
        test_classes: list[str | int] | None = None,
        **options,
    ) -> None:
        super().__init__(**options)
        folder = Path(root).expanduser()
        names = find_classes(folder, LAYOUT)
        samples, others = find_samples(folder, names, LAYOUT)
        say_left_out(folder, others, SAMPLES)
        paths = {
            name: [path for path, label in samples if label == i] for i, name in enumerate(names)
        }
        classes = split_classes(names, train_classes, val_classes, test_classes)
        for split in ("val", "test"):
            if again := [name for name in classes[split] if name in classes["train"]]:
                raise InputError(
                    f"data.{split}_classes and data.train_classes both have {again[0]}, and its "
                    f"pictures would be in both; accepted: classes that are not trained on"
                )
        self.take_pools(
            {
                split: FilePool({name: paths[name] for name in of_split}, self.eval_transform)
                for split, of_split in classes.items()
            }
        )
