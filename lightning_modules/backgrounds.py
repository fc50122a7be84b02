"""Samples whose object stands on another background: does the model still decide the same?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, default_collate

from lightning_modules.data import DataModule
from lightning_modules.metrics import BackgroundEffect
from lightning_modules.modalities import Modality
from lightning_modules.models.explaining import ExplainingModule
from lightning_modules.tasks import precise
from relprop.recording.eager import eagerly

TRIES = 8  # samples that are looked at for one of another label


def another(samples: Dataset, place: int, label: Tensor) -> dict[str, Any]:
    """The sample half a data set behind the one at ``place``, which has the ``label``.

    Or the first behind it, of :data:`TRIES`, with another label.
    """
    count = len(samples)
    half = count // 2
    first = None
    for step in range(half, min(half + TRIES, count)):
        sample = samples[(place + step) % count]
        if not torch.equal(torch.as_tensor(sample["label"]), label):
            return sample
        first = sample if first is None else first
    return first


class Backgrounds:
    """The samples of a data set whose object is known, and for each the background of another.

    The other sample is the one half a data set further on, or the first of those behind it that has
    another label. It is the same in every epoch, with any batch size and any number of processes.

    Attributes:
        module: the model that decides.
        data: makes batches.
        modality: of the source that has objects.
        samples: those whose object is known.
    """

    def __init__(
        self, module: ExplainingModule, data: DataModule, modality: Modality, samples: Subset
    ) -> None:
        self.module, self.data, self.modality, self.samples = module, data, modality, samples

    @classmethod
    def of(cls, module: ExplainingModule, data: DataModule, dataset: Dataset) -> Backgrounds | None:
        """None where fewer than two objects are known, or the model decides nothing."""
        if not module.task.decides:
            return None
        for modality in module.sources.values():
            known = modality.with_object(dataset)
            if len(known) > 1:
                return cls(module, data, modality, Subset(dataset, known))
        return None

    def batch(self, places: Sequence[int]) -> dict[str, Any]:
        """Samples, on the module's device."""
        return self._collated([self.samples[place] for place in places])

    def _collated(self, samples: Sequence[dict]) -> dict[str, Any]:
        batch = (self.data.collate or default_collate)(samples)
        return self.module.transfer_batch_to_device(batch, self.module.device, 0)

    def other(self, place: int, label: Tensor) -> dict[str, Any]:
        """The sample whose background is put behind the object of the one at ``place``."""
        return another(self.samples, place, label)

    def on_others(
        self, batch: Mapping[str, Any], places: Sequence[int]
    ) -> tuple[dict[str, Any], Tensor]:
        """The objects of a batch on other backgrounds; and where there is both, bool [B]."""
        labels = batch["label"].cpu()
        others = [self.other(*pair) for pair in zip(places, labels, strict=True)]
        return self._on(batch, self._collated(others))

    def on_own(self, batch: Mapping[str, Any]) -> tuple[dict[str, Any], Tensor]:
        """The same on their own backgrounds, to which the same is done as to another's."""
        return self._on(batch, batch)

    def _on(
        self, batch: Mapping[str, Any], others: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Tensor]:
        made, there = self.modality.on_backgrounds(batch, others)
        return self.module.transfer_batch_to_device(made, self.module.device, 0), there

    def decided(
        self, *batches: Mapping[str, Any], predict: Callable[[Mapping[str, Any]], Tensor]
    ) -> list[Tensor]:
        """What is decided about each of the batches; see :meth:`Task.decision`.

        What is compiled runs eagerly, so that no shape of a batch is compiled for it.
        """
        with torch.no_grad(), eagerly():
            return [self.module.task.decision(precise(predict(batch))) for batch in batches]

    def measure(
        self,
        metric: BackgroundEffect,
        batch: Mapping[str, Any],
        places: Sequence[int],
        predict: Callable[[Mapping[str, Any]], Tensor],
    ) -> None:
        """Add a batch of the samples at ``places``; ``predict`` makes logits [B, C] of one."""
        (on_other, there), (on_own, also) = self.on_others(batch, places), self.on_own(batch)
        there = (there & also).to(self.module.device)
        decided = self.decided(batch, on_other, on_own, predict=predict)
        truth = self.module.task.truth(batch["label"])
        metric.update(*(x[there] for x in (*decided, truth)))

    def notes(self, indices: Sequence[int]) -> dict[int, str]:
        """What is decided of samples on another background, by their place among ``indices``.

        Those without a known object, or without a background, have no note.
        """
        places = {index: place for place, index in enumerate(self.samples.indices)}
        known = {i: places[index] for i, index in enumerate(indices) if index in places}
        if not known:
            return {}
        batch = self.batch(list(known.values()))
        on_other, there = self.on_others(batch, list(known.values()))
        before, after = self.decided(batch, on_other, predict=self.module)
        task = self.module.task
        return {
            place: "background: "
            + ("holds" if torch.equal(before[i], after[i]) else f"now {task.names_of(after[i])}")
            for i, place in enumerate(known)
            if there[i]
        }
