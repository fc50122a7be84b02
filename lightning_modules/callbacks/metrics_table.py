"""The metrics of every epoch as a table, ``metrics.csv``."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from lightning_modules.utils.files import replace_file


class MetricsTable(Callback):
    """One row an epoch in ``run_dir/metrics.csv``; a cell is empty if its epoch did not measure it.

    Lightning's CSVLogger deletes the table of a run that is resumed. Here the rows are part of the
    checkpoint: a resumed run rewinds to it and carries on.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.path = Path(run_dir) / "metrics.csv"
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        trainer.callback_metrics.clear()  # what earlier epochs measured

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append(
            {"epoch": trainer.current_epoch, "step": trainer.global_step, **sorted_by_name(metrics)}
        )
        if trainer.is_global_zero:
            self._write()

    def _write(self) -> None:
        columns = dict.fromkeys(name for row in self.rows for name in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        replace_file(self.path, lambda file: file.write(text.getvalue().encode()))

    def state_dict(self) -> dict:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict) -> None:
        self.rows = state["rows"]


def sorted_by_name(metrics: dict[str, float]) -> dict[str, float]:
    return dict(sorted(metrics.items()))
