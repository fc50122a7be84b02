"""The classifier that a run goes on from, in its folder."""

from __future__ import annotations

from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from lightning_modules.models.teacher import is_kept


class SaveTeacher(Callback):
    """``teacher.ckpt``, once nothing has been found wrong and training begins, if there is one.

    Args:
        run_dir: the folder of the run.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.run_dir = Path(run_dir)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        teacher = getattr(module, "teacher", None)
        if teacher is not None and trainer.is_global_zero and not is_kept(self.run_dir):
            teacher.write(self.run_dir)
