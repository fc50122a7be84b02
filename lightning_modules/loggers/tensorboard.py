"""TensorBoard."""

from __future__ import annotations

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_modules.loggers.base import LOGGERS, Destination, Place
from lightning_modules.utils.options import Count


@LOGGERS.register("tensorboard")
class TensorBoard(Destination):
    """Event files in the run's folder.

    Args:
        flush_secs: seconds from one writing to the next.
    """

    type = TensorBoardLogger

    def __init__(self, *, flush_secs: Count = 120) -> None:
        self.flush_secs = flush_secs

    def make(self, place: Place) -> TensorBoardLogger:
        return TensorBoardLogger(
            str(place.run_dir),
            name="",
            version="",
            default_hp_metric=False,
            purge_step=place.step,  # TensorBoard forgets what came after
            flush_secs=self.flush_secs,
        )

    @staticmethod
    def show_picture(logger: TensorBoardLogger, tag: str, picture: np.ndarray, step: int) -> None:
        logger.experiment.add_image(tag, picture, step, dataformats="HWC")

    @staticmethod
    def show_text(logger: TensorBoardLogger, tag: str, text: str, step: int) -> None:
        logger.experiment.add_text(tag, text, step)
