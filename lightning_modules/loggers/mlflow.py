"""MLflow."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_modules.loggers.base import LOGGERS, Destination, Place
from lightning_modules.utils.errors import InputError, short_message
from lightning_modules.utils.names import slug


def key(tag: str) -> str:
    """A tag as MLflow takes it, which no other tag shares: ASCII letters, digits, ``_/.- ``."""
    parts = tag.split("/")
    return "/".join(x if re.fullmatch(r"[A-Za-z0-9_. -]+", x) else slug(x) for x in parts)


class Run(MLFlowLogger):
    """Lightning's, whose run is the same after a resume, and whose metrics have names apart.

    What the server or the data base refuses is one line.
    """

    def __init__(self, place: Place, **options: Any) -> None:
        super().__init__(run_id=place.known.get("mlflow"), **options)
        self.place = place

    @property
    def experiment(self) -> Any:
        if self._initialized:
            return super().experiment
        from mlflow.exceptions import MlflowException

        try:
            return self._begin()
        except MlflowException as error:
            run = f" run {self._run_id} of loggers.json:" if self._run_id else ""
            raise InputError(
                f"loggers.mlflow:{run} {short_message(error)}; accepted: a tracking_uri that "
                "answers, and knows the run"
            ) from error

    def _begin(self) -> Any:
        if self._run_id is None:
            self._make_experiment()
        client = super().experiment
        if self._initialized:  # in the first process
            self.place.keep("mlflow", self._run_id)
            client.update_run(self._run_id, status="RUNNING")
        return client

    @rank_zero_only
    def _make_experiment(self) -> None:
        """Lightning's warns that it makes one."""
        if self._mlflow_client.get_experiment_by_name(self._experiment_name) is None:
            self._mlflow_client.create_experiment(self._experiment_name, self._artifact_location)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({key(tag): value for tag, value in metrics.items()}, step)


def artifacts_are_at(location: str, base: Path) -> None:
    """Tell a run's data base where its pictures are, once the run has been moved.

    MLflow keeps whole paths, and has no call that changes them.
    """
    if not base.is_file():
        return
    with closing(sqlite3.connect(base)) as connection, connection:
        connection.execute(
            "UPDATE runs"
            " SET artifact_uri = ? || substr(artifact_uri, length(artifact_location) + 1)"
            " FROM experiments WHERE runs.experiment_id = experiments.experiment_id"
            " AND artifact_location LIKE '%/mlflow' AND artifact_location != ?",
            (location, location),
        )
        connection.execute(
            "UPDATE experiments SET artifact_location = ? WHERE artifact_location LIKE '%/mlflow'",
            (location,),
        )


@rank_zero_only
def forget_from(step: int, run: str, folder: Path) -> None:
    """Take out of the run's own data base and pictures what is logged again.

    MLflow has no call that does so, and keeps both.
    """
    if not (folder / "mlflow.db").is_file():
        return
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        of_run = {"run": run, "step": step}
        for table in ("metrics", "latest_metrics"):
            connection.execute(
                f"DELETE FROM {table} WHERE run_uuid = :run AND step >= :step", of_run
            )
        connection.execute(
            "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)"
            " SELECT key, value, max(timestamp), step, is_nan, run_uuid FROM metrics AS kept"
            " WHERE run_uuid = :run AND step ="
            " (SELECT max(step) FROM metrics WHERE run_uuid = :run AND key = kept.key)"
            " AND key NOT IN (SELECT key FROM latest_metrics WHERE run_uuid = :run) GROUP BY key",
            of_run,
        )
    for picture in (folder / "mlflow" / run / "artifacts" / "images").glob("*"):
        found = re.search(r"[+%]step[+%](\d+)[+%]", picture.name)
        if found and int(found[1]) >= step:
            picture.unlink()


@LOGGERS.register("mlflow")
class MLflow(Destination):
    """A run of MLflow, which a resumed run goes on with.

    Args:
        experiment: name of the experiment.
        name: of the run; None: a made-up one.
        tracking_uri: of a server or a data base; None: ``mlflow.db`` in the run's folder.
        tags: of the run.
    """

    type = MLFlowLogger

    def __init__(
        self,
        *,
        experiment: str = "relprop",
        name: str | None = None,
        tracking_uri: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        self.options = {"experiment_name": experiment, "run_name": name, "tags": tags}
        self.uri = tracking_uri

    def make(self, place: Place) -> Run:
        folder = place.run_dir.absolute()
        local = {"tracking_uri": f"sqlite:///{folder / 'mlflow.db'}"}
        local["artifact_location"] = (folder / "mlflow").as_uri()
        if self.uri is None:
            artifacts_are_at(local["artifact_location"], folder / "mlflow.db")
            if "mlflow" in place.known:
                forget_from(place.step, place.known["mlflow"], folder)
        where = local if self.uri is None else {"tracking_uri": self.uri}
        return Run(place, **self.options, **where)

    @staticmethod
    def show_picture(logger: MLFlowLogger, tag: str, picture: np.ndarray, step: int) -> None:
        logger.experiment.log_image(logger.run_id, picture, key=key(tag), step=step)

    @staticmethod
    def show_text(logger: MLFlowLogger, tag: str, text: str, step: int) -> None:
        logger.experiment.log_text(logger.run_id, text, f"{key(tag)}/step={step:07d}.md")

    @staticmethod
    def show_config(logger: MLFlowLogger, config: Mapping[str, Any]) -> None:
        logger.log_hyperparams(dict(config))
