"""Averaged weights that are tested, explained and resumed."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging as EMA
from lightning.pytorch.callbacks import WeightAveraging as Averaging

from lightning_modules.callbacks.registry import CALLBACKS


class Resumable(Averaging):
    """Lightning's averaging, with three differences.

    - A test after training is of the weights that the checkpoint has, which are the averaged ones.
      Lightning's puts back those that were trained.
    - A checkpoint that is written within a validation holds both sets of weights in their places.
    - A resumed run knows the epoch of the last update.
    """

    _swapped = False  # within a validation the module has the averaged weights

    @property
    def state_key(self) -> str:
        return type(self).__qualname__  # as Lightning's own

    def _swap_models(self, pl_module: LightningModule) -> None:
        super()._swap_models(pl_module)
        self._swapped = not self._swapped

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._swapped and self._average_model is not None:
            averaged, current = checkpoint["current_model_state"], checkpoint["state_dict"]
            checkpoint |= {"state_dict": averaged, "current_model_state": current}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit":
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"latest_update_epoch": self._latest_update_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._latest_update_epoch = state_dict.get("latest_update_epoch", -1)


@CALLBACKS.register("WeightAveraging")
class WeightAveraging(Resumable):
    """The mean of the weights after each step."""


@CALLBACKS.register("EMAWeightAveraging")
class EMAWeightAveraging(Resumable, EMA):
    """The exponential moving average of the weights."""
