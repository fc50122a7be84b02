"""How a run ends, in words: what it has come to, where all of it lies, and how to go on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from lightning_modules.callbacks.class_table import class_table, classes_of
from lightning_modules.callbacks.metrics_table import MetricsTable
from lightning_modules.callbacks.patience import Patience
from lightning_modules.callbacks.registry import CALLBACKS
from lightning_modules.callbacks.terminal import say_fact
from lightning_modules.data.base import DataModule
from lightning_modules.models.classifier import Classifier
from lightning_modules.models.schedule import schedule
from lightning_modules.tasks import Task
from lightning_modules.utils.cli import import_options
from lightning_modules.utils.terminal import console, say, tell

if TYPE_CHECKING:
    from lightning_modules.experiment import Ended


@rank_zero_only
def print_end(config: DictConfig, ended: Ended) -> None:
    """The best epoch, the test tables, where everything lies, and how to explain with the run."""
    run_dir, trial = Path(config.run_dir), config.trainer.get("fast_dev_run")
    task, data, metrics = ended.model.task, ended.data, ended.tested
    best = best_epoch(ended.trainer, task)
    if best is not None and not trial:
        figure = f"val {task.monitor.replace('_', ' ')} {best[f'val/{task.monitor}']:.3f}"
        say_fact("best", f"epoch {best['epoch']}, {figure}")
    if metrics:
        console().print(test_table(metrics, data))
        if ended.model.tested is not None:
            console().print(class_table(classes_of(ended.model)))
    if trial:
        say_fact("trial", "ended, and nothing is kept")
        return
    names = ("best.ckpt", "last.ckpt")
    files = [path for name in names if (path := run_dir / "checkpoints" / name).is_file()]
    say_fact("checkpoint", str(files[0]) if files else "none")
    if any((run_dir / "explanations").glob("*.png")):
        say_fact("pictures", str(run_dir / "explanations"))
    if files:
        say_fact("explain", explain_command(config, data))


def best_epoch(trainer: Trainer, task: Task) -> Mapping[str, float] | None:
    """The metrics of the first of the best epochs; None where nothing is validated."""
    rows = [row for x in trainer.callbacks if isinstance(x, MetricsTable) for row in x.rows]
    monitor = f"val/{task.monitor}"
    measured = [row for row in rows if monitor in row and row[monitor] == row[monitor]]
    best = {"max": max, "min": min}[task.mode]
    return best(measured, key=lambda row: row[monitor], default=None)


def test_table(metrics: Mapping[str, float], data: DataModule) -> Table:
    """Figures of the test in columns, each test set a row; "-" where a set lacks a figure."""
    of_tests = {n.removeprefix("test/"): x for n, x in metrics.items() if n.startswith("test/")}
    figures = sorted(name for name in of_tests if "/" not in name)
    table = Table(box=None, pad_edge=False)
    table.add_column("test", min_width=10)
    for name in figures:
        table.add_column(name.replace("_", " "), justify="right")
    sets = {"all": ("", data.test_dataset)}
    sets |= {name: (f"{name}/", dataset) for name, dataset in data.test_sets.items()}
    for name, (prefix, dataset) in sets.items():
        of_set = (of_tests.get(prefix + figure) for figure in figures)
        cells = ("-" if x is None else f"{x:.3f}" for x in of_set)
        table.add_row(f"{name} {len(dataset):,}", *cells)
    return table


def explain_command(config: DictConfig, data: DataModule) -> str:
    """The command that explains a sample with the run's checkpoint."""
    words = ["--checkpoint", config.run_dir, *data.example()]
    return " ".join(["python explain.py", *import_options(config.imports), shlex.join(words)])


def how_to_carry_on(config: DictConfig) -> str:
    """To be added to why a run has ended, if there is one by now."""
    begun = (Path(config.run_dir) / "config.yaml").is_file()
    if not begun or config.trainer.get("fast_dev_run"):
        return ""
    words = ["python train.py", *import_options(config.imports), "--resume"]
    return f"; to carry on: {' '.join(words)} {shlex.quote(config.run_dir)}"


def stopped(config: DictConfig) -> NoReturn:
    """Say that a person has stopped the run, and how to carry on; exit code 130."""
    tell(f"train.py: stopped{how_to_carry_on(config)}")
    raise SystemExit(130) from None


def early_stop(config: DictConfig, trainer: Trainer) -> str | None:
    """The option that has stopped training since nothing improved, if one has."""
    for callback in trainer.early_stopping_callbacks:
        if callback.wait_count >= callback.patience:
            names = [name for name in config.callbacks if type(callback) is CALLBACKS[name]]
            option = "epochs" if isinstance(callback, Patience) else "patience"
            return f"callbacks.{names[0]}.{option}" if names else "patience"
    return None


@rank_zero_only
def print_early_end(config: DictConfig, model: Classifier, reason: str) -> None:
    """The last line of a run whose learning rate has not fallen to its end."""
    value = OmegaConf.select(config, reason)
    option = reason if value is None else f"{reason}={value}"
    more = f" {reason}=MORE" if reason != "trainer.max_time" else ""
    progress = model.progress()
    say(
        f"{option} ended the run at {progress:.0%} of its training, with the learning rate at "
        f"{schedule(progress, model.hparams.warmup):.0%} of its peak"
        f"{how_to_carry_on(config)}{more}"
    )
