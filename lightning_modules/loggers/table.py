"""A CSV table of all scalars, a row a step."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from lightning_modules.loggers.base import LOGGERS, Destination, Place
from lightning_modules.utils.files import replace_file
from lightning_modules.utils.options import Count


class Writer(ExperimentWriter):
    """Lightning's, which goes on with the rows of earlier steps instead of deleting them."""

    def __init__(self, log_dir: str, step: int) -> None:
        super().__init__(log_dir)
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with open(path, newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if int(row["step"]) < step]
        self.metrics_keys = list(reader.fieldnames or [])
        text = io.StringIO()
        writer = csv.DictWriter(text, self.metrics_keys)
        writer.writeheader()
        writer.writerows(rows)
        replace_file(path, lambda file: file.write(text.getvalue().encode()))

    def _check_log_dir_exists(self) -> None:
        """Lightning's deletes the table that is there."""


class StepTable(CSVLogger):
    """``run_dir/csv/metrics.csv``; ``step`` as of :class:`Place`."""

    def __init__(self, place: Place, flush_logs_every_n_steps: int) -> None:
        super().__init__(
            str(place.run_dir),
            name="",
            version="csv",
            flush_logs_every_n_steps=flush_logs_every_n_steps,
        )
        self.step = place.step

    @property
    @rank_zero_experiment
    def experiment(self) -> Writer:
        if self._experiment is None:
            self._experiment = Writer(self.log_dir, self.step)
        return self._experiment


@LOGGERS.register("csv")
class Table(Destination):
    """A row a logged step, beside ``metrics.csv``, which has a row an epoch.

    Args:
        flush_logs_every_n_steps: steps from one writing to the next.
    """

    type = CSVLogger

    def __init__(self, *, flush_logs_every_n_steps: Count = 100) -> None:
        self.flush = flush_logs_every_n_steps

    def make(self, place: Place) -> StepTable:
        return StepTable(place, self.flush)
