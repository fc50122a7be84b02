"""Checkpoints at the end of an epoch, wherever the run's folder lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class EpochCheckpoint(ModelCheckpoint):
    """A checkpoint of the last epoch, or of the epoch with the best ``monitor``.

    Lightning's own forgets the best score when its folder has another path than before. It also
    asks for a validation in every epoch.

    Args:
        dirpath: folder of the checkpoints.
        filename: name of the file, without ``.ckpt``.
        monitor: metric that has to be better for the file to be replaced; None: every epoch
            replaces it.
        mode: ``max`` where a higher one is better, else ``min``.
    """

    def __init__(
        self, dirpath: Path, filename: str, monitor: str | None = None, mode: str = "max"
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            mode="min" if monitor is None else mode,
            save_on_train_epoch_end=True,  # when every callback has seen the epoch
            enable_version_counter=False,
        )

    @property
    def state_key(self) -> str:
        # As in checkpoints that Lightning's own has written.
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.monitor is None or self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, module)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(self.dirpath) / Path(path).name) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        super().load_state_dict(
            state
            | {name: here(state[name]) for name in paths}
            | {"best_k_models": {here(k): score for k, score in state["best_k_models"].items()}}
            | {"dirpath": self.dirpath}
        )
