"""The optimiser of a classifier, and how its learning rates rise and fall."""

from __future__ import annotations

import math

import lightning
from torch import optim

from lightning_modules.utils.errors import InputError

WARMUP_START = 0.01  # of the peak learning rate


def schedule(progress: float, warmup: float) -> float:
    """Factor of the peak learning rate, 0 to 1, at a share ``progress`` of the training.

    It rises linearly over the share ``warmup``, then falls along half a cosine to 0.
    """
    if progress < warmup:
        return WARMUP_START + (1 - WARMUP_START) * progress / warmup
    return (1 + math.cos(math.pi * min(1, (progress - warmup) / max(1 - warmup, 1e-9)))) / 2


class Scheduled(lightning.LightningModule):
    """A module with hyper-parameters ``lr`` and ``warmup``, whose rates follow a schedule.

    A subclass groups its parameters.
    """

    def parameter_groups(self) -> list[dict]:
        """Groups of parameters, each with its ``weight_decay`` and ``lr``."""
        raise NotImplementedError

    def configure_optimizers(self):
        """AdamW, whose learning rates follow :func:`schedule` at :meth:`progress`."""
        trainer = self.trainer
        if trainer.max_epochs == -1 and self.schedule_steps == -1:
            raise InputError(
                "trainer.max_epochs and trainer.max_steps give the learning rate no end to fall "
                "to; accepted: one of them, 0 or more"
            )
        optimizer = optim.AdamW(self.parameter_groups(), lr=self.hparams.lr)
        scheduler = optim.lr_scheduler.LambdaLR(
            optimizer, lambda _: schedule(self.progress(), self.hparams.warmup)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_train_start(self) -> None:
        # The rates in a checkpoint are of the span that the run had then.
        for config in self.trainer.lr_scheduler_configs:
            factor = schedule(self.progress(), self.hparams.warmup)
            for group in config.scheduler.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def progress(self) -> float:
        """The share of the training that is done, 0 to 1.

        It is (epochs done + share of the epoch done) / ``trainer.max_epochs``, so that it does not
        depend on the number of steps that an epoch has. Where ``max_epochs`` is -1 it is the steps
        done / ``schedule_steps``.
        """
        trainer = self.trainer
        if trainer.max_epochs == -1:
            return trainer.global_step / max(1, self.schedule_steps)
        epochs = trainer.fit_loop.epoch_progress.current
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.processed
        within = epochs.started > epochs.processed and batches > 0
        share = batches / trainer.num_training_batches if within else 0
        return (epochs.processed + share) / max(1, trainer.max_epochs)

    @property
    def schedule_steps(self) -> int:
        """Steps that the schedule spans where ``trainer.max_epochs`` is -1; -1 is no end."""
        stops = (getattr(callback, "max_steps", -1) for callback in self.trainer.callbacks)
        return max(self.trainer.max_steps, *stops, -1)
