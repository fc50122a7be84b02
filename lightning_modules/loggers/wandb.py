"""Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning.pytorch.loggers import WandbLogger

from lightning_modules.loggers.base import LOGGERS, Destination, Place
from lightning_modules.utils.errors import InputError, short_message


class Run(WandbLogger):
    """Lightning's, whose run is the same after a resume, and whose errors are one line."""

    def __init__(self, place: Place, **options: Any) -> None:
        super().__init__(save_dir=str(place.run_dir), id=place.known.get("wandb"), **options)
        self.place = place

    @property
    def experiment(self) -> Any:
        if self._experiment is not None:
            return self._experiment
        import wandb

        try:
            run = super().experiment
        except wandb.errors.Error as error:
            raise InputError(
                f"loggers.wandb: {short_message(error)}; accepted: `wandb login` before, or "
                "loggers.wandb.offline=true"
            ) from error
        if isinstance(run.id, str):  # of the first process
            self.place.keep("wandb", run.id)
        return run


@LOGGERS.register("wandb")
class WeightsAndBiases(Destination):
    """A run of Weights & Biases, which a resumed run goes on with.

    Args:
        project: name of the project.
        name: of the run; None: a made-up one.
        entity: user or team; None: the user who is logged in.
        group: of runs, such as a sweep.
        tags: of the run.
        notes: of the run.
        offline: write into the run's folder, for ``wandb sync``.
    """

    type = WandbLogger

    def __init__(
        self,
        *,
        project: str = "relprop",
        name: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        offline: bool = False,
    ) -> None:
        self.options = {"project": project, "name": name, "offline": offline}
        self.options |= {"entity": entity, "group": group, "tags": tags, "notes": notes}

    def make(self, place: Place) -> Run:
        import wandb

        return Run(place, settings=wandb.Settings(quiet=True), **self.options)

    @staticmethod
    def finish(logger: WandbLogger) -> None:
        if logger._experiment is not None:  # or the next run of this process would be part of it
            logger._experiment.finish()

    @staticmethod
    def show_picture(logger: WandbLogger, tag: str, picture: np.ndarray, step: int) -> None:
        logger.log_image(tag, [picture], step)

    @staticmethod
    def show_text(logger: WandbLogger, tag: str, text: str, step: int) -> None:
        logger.log_text(tag, ["text"], [[text]], step)

    @staticmethod
    def show_config(logger: WandbLogger, config: Mapping[str, Any]) -> None:
        logger.log_hyperparams(dict(config))
