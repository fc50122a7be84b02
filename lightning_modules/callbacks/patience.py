"""Early stopping that a resumed run remembers."""

from __future__ import annotations

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from lightning_modules.callbacks.registry import CALLBACKS
from lightning_modules.tasks import TASKS
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import Count


@CALLBACKS.register("Patience")
class Patience(EarlyStopping):
    """Stops training when the task's metric has not become better for ``epochs`` epochs.

    A run that has been stopped so and is resumed stays stopped: Lightning's own would train one
    more epoch. An epoch without validation does not count.

    Args:
        epochs: how many.
        task: a name in :data:`lightning_modules.tasks.TASKS`, whose ``monitor`` is watched.
    """

    def __init__(self, epochs: Count, task: str = "multiclass") -> None:
        if epochs < 1:
            raise ValueError(f"patience is {epochs}; accepted: 1 or more epochs, or null")
        watched = TASKS.find(task)
        super().__init__(
            f"val/{watched.monitor}",
            mode=watched.mode,
            patience=epochs,
            check_on_train_epoch_end=True,
        )

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.limit_val_batches == 0:
            raise InputError(
                f"patience is {self.patience}, and nothing is validated; accepted: null, or "
                "trainer.limit_val_batches above 0"
            )

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, module)

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state | {"patience": self.patience})  # a resume may ask for more
