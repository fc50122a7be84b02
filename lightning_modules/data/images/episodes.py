"""Few-shot episodes: a few classes, a few pictures of each to learn them by, and queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from lightning_modules.data.base import ImageDataModule
from lightning_modules.data.sampling import epoch_and_index
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import Count, Range
from lightning_modules.utils.terminal import counted

SPLIT_NUMBERS = {"train": 0, "val": 1, "test": 2}
SUPPORT = {"image": "support", "mask": "support_mask"}  # what an entry of a support is called
OF_EPISODE = {*SUPPORT.values(), "classes"}  # entries that are no query's


class Pool(Protocol):
    """The classes of a split, and their pictures.

    Attributes:
        class_names: of the classes.
        counts: how many pictures each of them has.
    """

    class_names: Sequence[str]
    counts: Sequence[int]

    def draw(self, label: int, count: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """So many different pictures of a class: ``image`` [n, 3, H, W], maybe ``mask`` [n, H, W].

        They depend on the state of ``rng`` alone.
        """
        ...


class Episodes(Dataset):
    """Episodes of the classes of a split; each depends on (seed, split, epoch, index) alone.

    An episode of C classes, K shots and Q queries a class has:

        support: float32 [C, K, 3, H, W]
        image: float32 [C * Q, 3, H, W], the queries, one of each class after another
        label: long [C * Q], the places of their classes among the C
        classes: long [C], which of the split's classes they are
        mask, support_mask: bool [C * Q, H, W] and [C, K, H, W], True on the object, where the pool
            knows it

    Args:
        pool: of the split.
        way, shot, queries: C, K and Q.
        size: number of episodes, each epoch.
        seed: of the episodes.
        split: a key of SPLIT_NUMBERS.
    """

    def __init__(
        self, pool: Pool, way: int, shot: int, queries: int, size: int, seed: int, split: str
    ) -> None:
        self.pool, self.size, self.seed, self.split = pool, size, seed, split
        self.way, self.shot, self.queries = way, shot, queries

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = epoch_and_index(key)
        if not 0 <= index < self.size:
            raise IndexError(f"{self.split} has episodes 0 to {self.size - 1}, not {index}")
        rng = np.random.default_rng((self.seed, SPLIT_NUMBERS[self.split], epoch, index))
        classes = rng.choice(len(self.pool.class_names), self.way, replace=False)
        count = self.shot + self.queries
        drawn = default_collate([self.pool.draw(int(label), count, rng) for label in classes])
        labels = torch.arange(self.way).repeat(self.queries)
        episode = {"label": labels, "classes": torch.from_numpy(classes)}
        for name, x in drawn.items():
            of_queries = x[:, self.shot :].transpose(0, 1).flatten(0, 1)
            episode |= {SUPPORT[name]: x[:, : self.shot], name: of_queries}
        return episode


def collate_episodes(episodes: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """E episodes: what is the support's is [E, ...], and queries are in one row, [E * C * Q, ...].

    So a sample of a batch is a query.
    """
    batch = default_collate(episodes)
    return {name: x if name in OF_EPISODE else x.flatten(0, 1) for name, x in batch.items()}


class EpisodesDataModule(ImageDataModule):
    """Episodes of a few classes, of which there are other ones in test than in train.

    A sample is an episode, so that ``batch_size`` counts episodes. A subclass makes the pools of
    its splits, and hands them to :meth:`take_pools`. Train has other episodes in each epoch, val
    and test the same ones.

    Args:
        way: classes of an episode.
        shot: pictures of each class in its support.
        queries: pictures of each class that are asked about.
        train_episodes: an epoch.
        val_episodes, test_episodes: of these splits.
        options: those of DataModule.
    """

    def __init__(
        self,
        *,
        way: Annotated[int, Range(2)] = 5,
        shot: Count = 5,
        queries: Count = 10,
        train_episodes: Count = 1000,
        val_episodes: Count = 600,
        test_episodes: Count = 600,
        batch_size: Count = 1,
        **options,
    ) -> None:
        super().__init__(batch_size=batch_size, **options)
        self.way, self.shot, self.queries = way, shot, queries
        self.sizes = {"train": train_episodes, "val": val_episodes, "test": test_episodes}
        self.class_names = [f"class {place + 1}" for place in range(way)]
        self.collate = collate_episodes

    def take_pools(self, pools: dict[str, Pool]) -> None:
        """Make episodes of the pool of each split.

        Raises:
            InputError: one has fewer classes than an episode, or a class has fewer pictures.
        """
        wanted = self.shot + self.queries
        for split, pool in pools.items():
            if (count := len(pool.class_names)) < self.way:
                fewer = "" if count < 2 else "2, or " if count == 2 else f"2 to {count}, or "
                raise InputError(
                    f"data.way is {self.way}, and {split} has {count} class{'es' * (count != 1)}; "
                    f"accepted: {fewer}more data.{split}_classes"
                )
            for name, count in zip(pool.class_names, pool.counts, strict=True):
                if count < wanted:
                    raise InputError(
                        f"data.shot is {self.shot} and data.queries {self.queries}, and class "
                        f"{name} of {split} has {counted(count, 'picture')}; accepted: together as "
                        f"many or fewer, or data.{split}_classes without it"
                    )
        sizes = (self.way, self.shot, self.queries)
        self.input_config["episode"] = dict(zip(("way", "shot", "queries"), sizes, strict=True))
        self.train_dataset, self.val_dataset, self.test_dataset = (
            Episodes(pool, *sizes, self.sizes[split], self.seed, split)
            for split, pool in pools.items()
        )

    def annotated(self, dataset: Episodes) -> str:
        return f"episodes of {len(dataset.pool.class_names)} classes"

    def example(self) -> list[str]:
        return ["--support", "FOLDER", *super().example()]


def split_classes(
    names: Sequence[str],
    train: Sequence[str | int] | None,
    val: Sequence[str | int] | None,
    test: Sequence[str | int] | None,
) -> dict[str, list[str]]:
    """The classes of each split, by name.

    Args:
        names: all classes.
        train: None: those that are in neither val nor test.
        val: None: those of test.
        test: None: those that are not trained on.

    Raises:
        InputError: there is no such class, or one is named twice; or neither train nor test is
            given.
    """
    given = {"train": train, "val": val, "test": test}
    chosen: dict[str, list[str]] = {}
    for split, of_split in given.items():
        if of_split is None:
            continue
        chosen[split] = [str(name) for name in of_split]
        unknown = [name for name in chosen[split] if name not in names]
        if unknown or len(set(chosen[split])) < len(chosen[split]) or not chosen[split]:
            listed = ", ".join(names[:20]) + ", ..." * (len(names) > 20)
            raise InputError(
                f"data.{split}_classes is {list(of_split)}; accepted: some of the data's classes, "
                f"each once: {listed}"
            )
    if "train" not in chosen and "test" not in chosen:
        raise InputError(
            "data.train_classes and data.test_classes are null; accepted: names in one or both"
        )
    others = {*chosen.get("val", []), *chosen.get("test", [])}
    chosen.setdefault("train", [name for name in names if name not in others])
    chosen.setdefault("test", [name for name in names if name not in chosen["train"]])
    chosen.setdefault("val", chosen["test"])
    return {split: chosen[split] for split in SPLIT_NUMBERS}
