"""The config of a run, in its folder and in its loggers."""

from __future__ import annotations

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from lightning_modules.loggers import show_config
from lightning_modules.utils.files import replace_file


class SaveConfig(Callback):
    """``config.yaml``, once nothing has been found wrong with it and training begins.

    Before, a new run has left nothing that has to be resumed, and a resumed one is as it was.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.save()
        if trainer.global_step == 0 and trainer.is_global_zero:
            show_config(trainer.loggers, OmegaConf.to_container(self.config))

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not (Path(self.config.run_dir) / "config.yaml").is_file():
            self.save()  # of a run of no steps

    @rank_zero_only
    def save(self) -> None:
        run_dir = Path(self.config.run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        text = OmegaConf.to_yaml(self.config)
        replace_file(run_dir / "config.yaml", lambda file: file.write(text.encode()))
