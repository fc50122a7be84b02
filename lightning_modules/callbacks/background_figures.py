"""How far decisions hang on the background, in every validation and in the test."""

from __future__ import annotations

import torch
from lightning import Callback, LightningModule, Trainer
from torch.utils.data import Dataset

from lightning_modules.backgrounds import Backgrounds
from lightning_modules.metrics import BackgroundEffect
from lightning_modules.models.explaining import SHARDED

SAMPLES = 256  # at most, of a split
FIGURES = ("background_effect", "background_control", "object_only")


class BackgroundFigures(Callback):
    """Logs ``val/background_effect``, ``val/background_control`` and ``val/object_only``.

    They are those of :class:`~lightning_modules.metrics.BackgroundEffect`, wherever two samples or
    more have a mask or a rationale; ``test/...`` in the test, ``test/<name>/...`` of a further test
    set. They are of ``SAMPLES`` such samples at most, evenly spread over the split, and of no more
    than are validated. It costs three forward passes of each. No random number is drawn, and
    several processes find what one finds. Where no process has the whole model, nothing is logged.
    """

    def __init__(self) -> None:
        self.known: tuple[LightningModule, Dataset, Backgrounds | None] | None = None

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.sanity_checking:
            batches = trainer.num_val_batches
            self._log(trainer, module, "val", trainer.datamodule.val_dataset, batches[0])

    def on_test_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        batches = trainer.num_test_batches
        further = getattr(module, "test_set", None)
        split = "test" if further is None else f"test/{further}"
        self._log(trainer, module, split, trainer.datamodule.test_dataset, batches[0])

    def _log(
        self,
        trainer: Trainer,
        module: LightningModule,
        split: str,
        dataset: Dataset,
        batches: float,
    ) -> None:
        if isinstance(trainer.strategy, SHARDED):
            return
        if self.known is None or self.known[0] is not module or self.known[1] is not dataset:
            found = Backgrounds.of(module, trainer.datamodule, dataset)
            self.known = module, dataset, found
        backgrounds = self.known[-1]
        if backgrounds is None:
            return
        size = trainer.datamodule.batch_size
        most = min(SAMPLES, batches * size * trainer.world_size)
        metric = self._measured(trainer, module, backgrounds, int(most), size)
        for name, value in metric.compute().items():
            if name in FIGURES and not value.isnan():  # none has an object and a background
                module.log(f"{split}/{name}", value)

    def _measured(
        self,
        trainer: Trainer,
        module: LightningModule,
        backgrounds: Backgrounds,
        most: int,
        size: int,
    ) -> BackgroundEffect:
        """The figures of ``most`` samples at most, those of this process among them."""
        precision = trainer.precision_plugin

        def predict(batch):
            with precision.val_step_context():
                return module(batch)

        count = len(backgrounds.samples)
        most = min(most, count)
        places = [i * count // most for i in range(most)][trainer.global_rank :: trainer.world_size]
        metric = BackgroundEffect().to(module.device)
        metric.rows.append(torch.empty(0, 4, device=module.device))  # a process may have none
        for start in range(0, len(places), size):
            part = places[start : start + size]
            backgrounds.measure(metric, backgrounds.batch(part), part, predict)
        return metric
