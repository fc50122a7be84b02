"""Where watched samples come from in a project that is not ours: a batch, a loader, a data set."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FunctionType, MethodType, ModuleType, NoneType
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import RunningStage
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from lightning_modules.utils.errors import InputError, short_message
from relprop.recording.run import evaluating

ACCEPTED = "accepted: a batch, a loader or a data set"
UNDIVIDED = (str, bytes, int, float, NoneType, type, ModuleType, FunctionType)
LARGE, LARGEST = 2**14, 2**28  # bytes above which a tensor is no state, with axes or without


def draw(source: Any, samples: int, seed: int, shared: Sequence[Any] = ()) -> Any:
    """A batch of a source, on the CPU: as many samples, if it can be asked for single ones.

    Of a batch, and of what only yields batches, it is the first batch. Data are read from a copy,
    so that whatever state the source keeps stays as it is.

    Args:
        source: as of :class:`~.relevance_tracker.RelevanceTracker`.
        samples: their number.
        seed: of their choice.
        shared: objects that a copy of the source refers to as the source does.

    Raises:
        InputError: it is no source, it has no samples, or it cannot be copied.
    """
    if is_batch(source):
        return source
    if not any(hasattr(source, name) for name in ("__iter__", "__getitem__")):
        raise InputError(f"source is a {type(source).__name__}; {ACCEPTED}")
    if isinstance(source, DataLoader):
        streams = isinstance(source.dataset, IterableDataset)
        if streams or source.batch_sampler is None:
            return first_batch(without_workers(source, shared))
        dataset, collate = copied((source.dataset, source.collate_fn), shared)
    elif hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        dataset, collate = copied(source, shared), default_collate
    else:
        return first_batch(copied(source, shared))
    if len(dataset) == 0:
        raise InputError(f"the data set has no samples; {ACCEPTED} that has some")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    return collate([dataset[i] for i in order[:samples].tolist()])


def check_source(source: Any) -> None:
    """Raises an InputError where it is a folder, or several loaders."""
    if isinstance(source, (str, Path)):
        raise InputError(f"source is {str(source)!r}; {ACCEPTED}, or run_dir={str(source)!r}")
    several = isinstance(source, (list, tuple)) and any(isinstance(x, DataLoader) for x in source)
    if several:
        raise InputError(f"source has {len(source)} loaders; {ACCEPTED}, one alone")


def is_batch(source: Any) -> bool:
    """True of tensors, also within a mapping or beside each other in a tuple or list."""
    beside = isinstance(source, (tuple, list)) and any(isinstance(x, Tensor) for x in source)
    return beside or isinstance(source, (Tensor, Mapping))


def first_batch(loader: Any) -> Any:
    """The first batch of a loader that nobody else reads."""
    try:
        return next(iter(loader))
    except StopIteration:
        raise InputError(f"source has no batch; {ACCEPTED} that has some") from None


def without_workers(loader: DataLoader, shared: Sequence[Any]) -> DataLoader:
    """A loader of a copy of the same data, in this process."""
    streams = isinstance(loader.dataset, IterableDataset)
    parts = (loader.dataset, loader.collate_fn, None if streams else loader.sampler)
    dataset, collate, sampler = copied(parts, shared)
    more = {} if loader.batch_size is None else {"drop_last": loader.drop_last}
    return DataLoader(
        dataset, batch_size=loader.batch_size, sampler=sampler, collate_fn=collate, **more
    )


def copied(source: Any, shared: Sequence[Any]) -> Any:
    """A copy with a state of its own, which shares the samples that are held in memory."""
    memo = {id(x): x for x in (*shared, *samples_in(source, shared))}
    try:
        return copy.deepcopy(source, memo)
    except Exception as error:  # whatever cannot be copied raises
        raise InputError(
            "source cannot be read without a change of its state, for it cannot be copied "
            f"({short_message(error)}); accepted: a batch, or a list of samples"
        ) from error


def samples_in(source: Any, shared: Sequence[Any]) -> list[Tensor | np.ndarray]:
    """Large tensors and arrays within a source, but not in what is shared in any case.

    What has one axis may be an order, which is a state.
    """
    found, seen, waiting = [], {id(x) for x in shared}, [source]
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, UNDIVIDED) or id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, (Tensor, np.ndarray)):
            if thing.nbytes > (LARGE if thing.ndim > 1 else LARGEST):
                found.append(thing)
        elif isinstance(thing, (tuple, list)):
            waiting += thing
        elif isinstance(thing, dict):
            waiting += thing.values()
        elif isinstance(thing, MethodType):
            waiting.append(thing.__self__)
        elif hasattr(thing, "__dict__"):
            waiting += vars(thing).values()
    return found


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
