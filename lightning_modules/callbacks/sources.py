"""Where watched samples come from in a project that is not ours: a batch, a loader, a data set."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.seed import isolate_rng
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from lightning_modules.utils.errors import InputError
from relprop.recording.run import evaluating

ACCEPTED = "accepted: a batch, a loader or a data set"


@contextmanager
def beside_training(seed: int) -> Iterator[None]:
    """Random numbers of their own for what runs within; those of training go on afterwards."""
    with isolate_rng():
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        yield


def draw(source: Any, samples: int, seed: int) -> Any:
    """A batch of a source, on the CPU: as many samples, if it can be asked for single ones.

    Of a batch, and of what only yields batches, it is the first batch.
    """
    if is_batch(source):
        return source
    dataset, collate = source, default_collate
    if isinstance(source, DataLoader):
        if source.batch_sampler is None or isinstance(source.dataset, IterableDataset):
            return first_batch(source)
        dataset, collate = source.dataset, source.collate_fn
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        if len(dataset) == 0:
            raise InputError(f"the data set has no samples; {ACCEPTED} that has some")
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
        return collate([dataset[i] for i in order[:samples].tolist()])
    if not hasattr(source, "__iter__"):
        raise InputError(f"source is a {type(source).__name__}; {ACCEPTED}")
    return first_batch(source)


def is_batch(source: Any) -> bool:
    """True of tensors, also within a mapping or beside each other in a tuple or list."""
    beside = isinstance(source, (tuple, list)) and any(isinstance(x, Tensor) for x in source)
    return beside or isinstance(source, (Tensor, Mapping))


def first_batch(loader: Any) -> Any:
    """The first batch; the loader's own generator stays where it was."""
    generator = getattr(loader, "generator", None)
    state = None if generator is None else generator.get_state()
    try:
        return next(iter(loader))
    except StopIteration:
        raise InputError(f"source has no batch; {ACCEPTED} that has some") from None
    finally:
        if generator is not None:
            generator.set_state(state)


def validation_loader(trainer: Trainer) -> Any:
    """The trainer's first loader for validation; None while there is none."""
    loaders = trainer.val_dataloaders
    while isinstance(loaders, (Mapping, list, tuple)) and loaders:
        loaders = next(iter(loaders.values() if isinstance(loaders, Mapping) else loaders))
    return loaders


def as_in_validation(trainer: Trainer, module: LightningModule, batch: Any) -> Any:
    """A batch as the module's ``validation_step`` would be given it, on its device."""
    stage = trainer.state.stage
    trainer.state.stage = RunningStage.VALIDATING
    try:
        with evaluating(module), torch.no_grad():
            batch = apply_to_collection(batch, Tensor, torch.clone)  # hooks may write into it
            batch = trainer.precision_plugin.convert_input(batch)
            batch = module._on_before_batch_transfer(batch)
            return trainer.strategy.batch_to_device(batch)
    finally:
        trainer.state.stage = stage
