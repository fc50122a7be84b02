"""What all data sets share: their splits, their classes and their loaders."""

import copy
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import lightning
import torch
from lightning.fabric.utilities.seed import pl_worker_init_function
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_modules.data.classes import after_earlier
from lightning_modules.data.sampling import EpochSampler, TrainLoader
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import Checked, Count, Range, Seed, check_option
from lightning_modules.utils.terminal import counted, tell
from relprop.registry import Registry

FEW = 0.1  # of the training samples, to have a mask


class DataModule(Checked, lightning.LightningDataModule):
    """A data set with train, val and test splits, and their loaders.

    A subclass declares the arguments of its own and those whose defaults it changes, and hands
    ``**options`` on. Registered in ``DATAMODULES``, a config finds it by its name.

    The subclass's constructor sets the attributes below, so that a model can be built to fit the
    data (number of classes, size of the input) before a Trainer exists.

    Attributes:
        tasks: what the labels may mean, names in :data:`lightning_modules.tasks.TASKS`.
        class_names: name of every class, label or number, in the order of the logits.
        input_config: how a picture or a text becomes an input, in plain types, for a checkpoint to
            keep.
        train_dataset: indexed by EpochSampler's (epoch, index), or by an index of epoch 0.
        val_dataset, test_dataset: indexed by an index.
        test_sets: further test sets by name, as ``shift``.
        collate: makes a batch of a list of samples. None: PyTorch's default collate.

    Args:
        batch_size: samples a batch, in every loader.
        num_workers: processes that prepare samples, each loader; 0: the main process.
        task: what the labels mean, one of ``tasks``.
        sampler: ``balanced``: draw training samples with replacement, so that each class comes as
            often; of several labels the rarest of a sample counts. null: each sample comes once.
        seed: of everything random about the data.

    Raises:
        ValueError: an argument is out of its range.
    """

    tasks: tuple[str, ...] = ("multiclass",)
    class_names: list[str]
    input_config: dict
    train_dataset: Dataset
    val_dataset: Dataset
    test_dataset: Dataset
    test_sets: dict[str, Dataset] = {}
    collate: Callable[[list[dict]], dict] | None = None

    def __init__(
        self,
        batch_size: Count = 32,
        num_workers: Annotated[int, Range(0)] = 0,
        task: str = "multiclass",
        sampler: Literal["balanced"] | None = None,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        check_option("task", task, task in self.tasks, f"of these data {' or '.join(self.tasks)}")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.task = task
        self.sampler = sampler
        self.seed = seed

    def take_inputs(self, input_config: dict) -> None:
        """Take over what of a resumed run's ``input_config`` this one's data decided anew."""

    def add_classes(self, earlier: Sequence[str]) -> None:
        """Put the classes of an earlier run before those that are trained on.

        Train has no samples of them; val and test have, where the data know them.

        Raises:
            InputError: one of them is trained on, or these data cannot be labelled so.
        """
        if self.task != "multiclass":
            raise InputError(f"model.previous: the task is {self.task}; accepted: multiclass")
        trained = self.class_names
        self.class_names = after_earlier(earlier, trained)
        self.take_classes(trained)

    def take_classes(self, trained: Sequence[str]) -> None:
        """Label the samples by ``class_names``, and leave out those of other classes.

        ``trained``: the classes of which train has samples.

        Raises:
            InputError: a split has none, or these data cannot be labelled so.
        """
        raise InputError(
            "model.previous: the classes of these data cannot follow those of a run; accepted: "
            "digits, image_folder or text_table without a marker"
        )

    def of_test_set(self, name: str, option: str) -> "DataModule":
        """These data with another of their test sets for ``test_dataset``.

        Args:
            name: ``test``, or a name in ``test_sets``.
            option: the option that names it, for the message.

        Raises:
            InputError: there is no such test set.
        """
        known = {"test": self.test_dataset, **self.test_sets}
        if name not in known:
            raise InputError(
                f"{option} {name}: no such test set of the data; accepted: {', '.join(known)}"
            )
        data = copy.copy(self)
        data.test_dataset = known[name]
        return data

    def annotated(self, dataset: Dataset) -> str:
        """How many samples say what decides their label, as "40 masks"; "" where none does."""
        return ""

    def mask_train(self, instead: str = "guidance=null") -> None:
        """Give the training samples their masks, or check that they have masks or rationales.

        Without this call they are made without masks, unless they bring them at no cost. Says so
        where few of them have one.

        Args:
            instead: the option that asks for masks, with the value that does without, for messages.

        Raises:
            InputError: none of them has one, or their augmentation cannot take masks along.
        """
        raise InputError(
            f"{option_of(instead)}: the training samples have no masks; accepted: digits, "
            f"image_folder with a folder masks/train, texts with rationales, or {instead}"
        )

    def example(self) -> list[str]:
        """Arguments of explain.py for a sample of test, or a placeholder for one."""
        return ["--input", "FILE"]

    def train_dataloader(self) -> TrainLoader:
        """Shuffled anew every epoch. Drops the last, partial batch unless it is the only one."""
        sampler = self.train_sampler()
        drop_last = len(sampler) >= self.batch_size
        return self._loader(self.train_dataset, TrainLoader, sampler=sampler, drop_last=drop_last)

    def val_dataloader(self) -> DataLoader:
        """All of val, in order."""
        return self._loader(self.val_dataset)

    def test_dataloader(self) -> DataLoader:
        """All of test, in order."""
        return self._loader(self.test_dataset)

    def train_sampler(self) -> EpochSampler:
        """The order of the training samples."""
        return EpochSampler(self.train_dataset, self.seed, self.sample_weights())

    def train_labels(self, option: str) -> Tensor:
        """The labels of all training samples, as the task has them, [N] or [N, C].

        ``option`` is what needs them.

        Raises:
            InputError: they are not known before the samples are made, or are numbers.
        """
        labels = getattr(self.train_dataset, "labels", None)
        if labels is None or self.task == "regression":
            why = "not known before they are made"
            accepted = "data that are files, a table or a list"
            if self.task == "regression":
                why, accepted = "numbers", "null"
            elif option == "model.class_weights":
                accepted += ", or weights as numbers"
            raise InputError(
                f"{option}=balanced: the labels of the training samples are {why}; accepted: "
                f"{accepted}"
            )
        return torch.as_tensor(labels)

    def sample_weights(self) -> Tensor | None:
        """How often each training sample is drawn; None: once."""
        if self.sampler is None:
            return None
        labels = self.train_labels("data.sampler")
        if labels.ndim == 1:
            return 1 / labels.bincount().double()[labels]
        there = labels > 0.5
        counts = there.sum(dim=0).double()
        rarest = torch.where(there, counts, torch.inf).amin(dim=1)
        none = (~there.any(dim=1)).sum()
        return 1 / torch.where(rarest.isinf(), none, rarest)

    def _loader(
        self, dataset: Dataset, kind: type[DataLoader] = DataLoader, **options
    ) -> DataLoader:
        return kind(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=self.collate,
            # A loader without its own generator takes a number from the global one whenever it
            # starts its workers: dropout would differ with num_workers and after a resume.
            generator=torch.Generator().manual_seed(self.seed),
            worker_init_fn=begin_worker,
            **options,
        )


def begin_worker(worker: int) -> None:
    """Seed a worker of a loader, as Lightning does, and take it out of the process group.

    Ctrl-C and the signal of a scheduler are for the process that trains: it ends its workers.
    """
    pl_worker_init_function(worker)
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()


def option_of(given: str) -> str:
    """The name of an option with its value, ``option=value``."""
    return given.partition("=")[0]


def say_if_few(count: int, dataset: Dataset, thing: str, option: str) -> None:
    """Tell for an option how many training samples have a mask or a rationale, if they are FEW."""
    share = count / len(dataset)
    if share < FEW:
        tell(
            f"{option}: {share:.2%} of the training samples have a {thing} ({count:,} of "
            f"{len(dataset):,}); the others do not count"
        )


DATAMODULES: Registry[type[DataModule]] = Registry("data set")


class ImageDataModule(DataModule):
    """A data set of images.

    Samples are dicts, batched by PyTorch's default collate:
        image: float32 [3, H, W], normalised
        label: as the task has it: an int, an index into `class_names`; or float32 [C]
        mask: bool [H, W], True on the object; only where the data set has masks. Where several
            labels may be there, [C, H, W], on the object of each
        has_mask: bool, only where some samples may have no mask; theirs is False everywhere

    Attributes:
        input_config: how a picture becomes an input, in timm's words: `input_size` [3, H, W],
            `mean` [3], `std` [3], `interpolation`, `crop_pct`, `crop_mode`.
        pairs_dataset: scenes with two objects, None where the data set has none.
    """

    pairs_dataset: Dataset | None = None

    def annotated(self, dataset: Dataset) -> str:
        return counted(len(dataset), "mask") if "mask" in dataset[0] else ""

    def mask_train(self, instead: str = "guidance=null") -> None:
        if "mask" not in self.train_dataset[0]:
            super().mask_train(instead)

    def example(self) -> list[str]:
        return ["--input", "PICTURE"]
