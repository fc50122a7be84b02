"""What a run says in the terminal: what is trained on what, a line an epoch, and the bar."""

from __future__ import annotations

import shlex
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from omegaconf import DictConfig

from lightning_modules.data.base import DataModule
from lightning_modules.tasks import TASKS
from lightning_modules.utils.terminal import counted, say

NAMED = 5  # classes
TRACKED = "relevance/"
CALLED = defaultdict(lambda: "classes", multilabel="labels", regression="numbers")


class Terminal(Callback):
    """Says what is trained on what when training begins, and one line at the end of each epoch.

    Args:
        config: of the run.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.trial = bool(config.trainer.get("fast_dev_run"))
        self.resumed: tuple[int, int] | None = None  # the epoch and the step to carry on from
        self.started = 0.0

    def on_load_checkpoint(
        self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit":
            epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
            self.resumed = epochs["processed"], checkpoint["global_step"]

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            for name, text in self.facts(trainer, module).items():
                say_fact(name, text)

    def facts(self, trainer: Trainer, module: LightningModule) -> dict[str, str]:
        """What is trained on what, where, and how to watch it, each by a name of one word."""
        config = self.config
        epochs = f"{counted(trainer.max_epochs, 'epoch')}, " if trainer.max_epochs != -1 else ""
        facts = {
            "data": f"{config.data.kind}: {samples_of(trainer.datamodule)}",
            CALLED[config.task]: classes_of(trainer.datamodule),
            "model": model_of(module),
            "training": f"{epochs}{device_of(trainer)}, precision {trainer.precision}",
        }
        if (guidance := getattr(module, "guidance", None)) is not None:
            facts["guidance"] = str(guidance)
        if (distillation := getattr(module, "distillation", None)) is not None:
            facts["distill"] = str(distillation)
        if self.resumed is not None:
            epoch, step = self.resumed
            done = -1 < trainer.max_epochs <= epoch
            facts["resumed"] = f"at epoch {epoch}, step {step}" + ": no epoch is left" * done
        if self.trial:
            steps = counted(int(trainer.fast_dev_run), "step")
            return facts | {"trial": f"{steps}, of which nothing is kept"}
        facts["folder"] = config.run_dir
        if "tensorboard" in config.loggers:
            facts["watch"] = f"tensorboard --logdir {shlex.quote(config.run_dir)}"
        return facts

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.started = time.perf_counter()  # of the rest of an epoch that is resumed

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if trainer.is_global_zero:
            seconds = time.perf_counter() - self.started
            figures = figures_of(metrics, TASKS[self.config.task].monitor)
            say(f"epoch {trainer.current_epoch}: {figures}; {seconds:.1f} s")


class EpochBar(RichProgressBar):
    """Lightning's bar of an epoch's batches, without metrics, which leaves nothing behind."""

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        return {}  # they are in the line of the epoch

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._vanish()
        super().teardown(trainer, module, stage)

    def on_exception(
        self, trainer: Trainer, module: LightningModule, exception: BaseException
    ) -> None:
        self._vanish()
        super().on_exception(trainer, module, exception)

    def _vanish(self) -> None:
        if self.progress is not None:
            self.progress.live.transient = True


def say_fact(name: str, text: str) -> None:
    say(f"{name:<12}{text}")


def samples_of(data: DataModule) -> str:
    """How many samples the splits have, and how many of them say what decides their label."""
    parts = [f"{len(data.train_dataset):,} training"]
    evaluated = {"validation": data.val_dataset, "test": data.test_dataset, **data.test_sets}
    for name, dataset in evaluated.items():
        annotated = data.annotated(dataset)
        parts.append(f"{len(dataset):,} {name}" + (f" ({annotated})" if annotated else ""))
    return f"{', '.join(parts)} samples"


def classes_of(data: DataModule) -> str:
    names = data.class_names
    listed = ", ".join(f"{name:.40}" for name in names[:NAMED]) + ", ..." * (len(names) > NAMED)
    return f"{len(names)}: {listed}"


def model_of(module: LightningModule) -> str:
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    trained = sum(size for size, requires_grad in sizes if requires_grad)
    every = sum(size for size, _ in sizes)
    of_all = "" if trained == every else f" of {every:,}"
    name = module.hparams.get("name") or type(module.backbone).__name__
    return f"{module.kind}, {name}: {trained:,}{of_all} trainable parameters"


def device_of(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    count = trainer.world_size
    return f"{device}{name}" if count == 1 else f"{count} processes on {device.type}{name}"


def figures_of(metrics: Mapping[str, float], monitor: str = "accuracy") -> str:
    """Loss, what is monitored and the tracker's figures, those that the epoch has measured."""
    shown = {"train/loss": "loss", "val/loss": "val loss"}
    shown[f"val/{monitor}"] = f"val {monitor.replace('_', ' ')}"
    training = [f"{said} {metrics[name]:.3f}" for name, said in shown.items() if name in metrics]
    tracked = [
        f"{name.removeprefix(TRACKED).replace('_', ' ')} {value:.3f}"
        for name, value in sorted(metrics.items())
        if name.startswith(TRACKED) and not name.endswith("/seconds")
    ]
    parts = [", ".join(training), "relevance: " * bool(tracked) + ", ".join(tracked)]
    return "; ".join(filter(None, parts)) or "nothing was measured"
