"""What the tracker watches of a project that is not ours."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_modules.callbacks.beside import beside_training
from lightning_modules.callbacks.class_formation import check_formation
from lightning_modules.callbacks.sources import (
    ACCEPTED,
    as_in_validation,
    draw,
    validation_loader,
)
from lightning_modules.callbacks.watch import Report, Watch
from lightning_modules.data.base import DataModule
from lightning_modules.models.adopted import Adopted, adopt, rows_of
from lightning_modules.models.explaining import ExplainingModule
from lightning_modules.models.found_out import tensors_in
from lightning_modules.models.told import Told
from lightning_modules.utils.errors import InputError, short_message


class Foreign:
    """Watched samples of somebody else's, and the classifier within somebody else's module.

    Args:
        source: as of :class:`~.relevance_tracker.RelevanceTracker`, as are the others.
        samples: how many are watched.
        seed: of their choice.
        told: what is known of the module.
        options: ``method`` and the options of the method.
        class_embedding: as of the tracker.
    """

    def __init__(
        self,
        source: Any,
        samples: int,
        seed: int,
        told: Told,
        options: dict[str, Any],
        class_embedding: bool = False,
    ) -> None:
        self.source, self.samples, self.seed = source, samples, seed
        self.told, self.options = told, options
        self.class_embedding = class_embedding
        self.adopted: Adopted | None = None
        self.watched: dict[str, Any] | None = None  # on the CPU

    def forget(self) -> None:
        """Forget what an earlier training has prepared."""
        self.adopted = self.watched = None

    def is_needed(self, trainer: Trainer, module: LightningModule) -> bool:
        """Whether module and data are not ours, or something of them is told."""
        told = (self.source, *vars(self.told).values())
        ours = isinstance(module, ExplainingModule) and isinstance(trainer.datamodule, DataModule)
        return not ours or any(x is not None for x in told)

    def is_there(self, trainer: Trainer) -> bool:
        """Whether the source can be drawn from yet: loaders for validation may be made late."""
        if self.source is None and not trainer.enable_validation:
            with as_misconfiguration():
                raise InputError(f"source is None, and nothing is validated; {ACCEPTED}")
        return self.source is not None or validation_loader(trainer) is not None

    def prepare(self, trainer: Trainer, module: LightningModule) -> list[int]:
        """Draw the samples, and explain one of them; a number that stands for each of them.

        Raises:
            MisconfigurationException: they cannot be explained.
        """
        source = validation_loader(trainer) if self.source is None else self.source
        with (
            as_misconfiguration(),
            torch.inference_mode(False),
            beside_training(module, self.seed),
        ):
            drawn = draw(source, self.samples, self.seed, shared=(trainer, module))
            batch = as_in_validation(trainer, module, drawn)
            self.adopted, self.watched = adopt(module, batch, self.told, self.samples)
            size = len(next(iter(tensors_in(self.watched["inputs"]).values())))
            first = rows_of(self.watched, size, torch.arange(1))
            one = self.adopted.on_device(first)
            trace = self.adopted.record(one)
            self.adopted.name_classes(trace.logits.shape[1])
            self.adopted.check_labels(self.watched, trace.logits.shape[1])
            self.adopted.explain_sources(trace, one, [one.get("label")], **self.options)
            if self.class_embedding:
                check_formation(self.adopted, trace)
        columns = [x.reshape(len(x), -1) for x in tensors_in(self.watched["inputs"]).values()]
        return [
            zlib.crc32(b"".join(x.float().numpy().tobytes() for x in sample))
            for sample in zip(*columns, strict=False)
        ]

    def report(self, module: LightningModule, epoch: int) -> Report:
        """What is found out about the samples."""
        with torch.inference_mode(False), beside_training(module, self.seed):
            batch = self.adopted.on_device(self.watched)
            about = (self.adopted, self.adopted, self.options, epoch)
            watch = Watch(*about, watched="Watched", formation=self.class_embedding)
            return watch.report_on(batch)


@contextmanager
def as_misconfiguration() -> Iterator[None]:
    """Whatever is raised within becomes one line of the tracker's."""
    try:
        yield
    except InputError as error:
        raise MisconfigurationException(f"RelevanceTracker: {error}") from error
    except Exception as error:  # whatever a model raises that is called with something else
        accepted = "a model that can be explained so, and what it is called with (model=, inputs=)"
        raise MisconfigurationException(f"RelevanceTracker: {refused(error, accepted)}") from error


def refused(error: Exception, accepted: str) -> str:
    """What an error says, with what is accepted, unless it says so itself."""
    message = short_message(error)
    return message if "accepted: " in message else f"{message}; accepted: {accepted}"
