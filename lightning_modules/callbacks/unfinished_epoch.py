"""What a checkpoint within an epoch holds so that a resumed run ends that epoch bit-identical."""

from __future__ import annotations

import random
import zlib
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.utils.errors import InputError

KEY = "unfinished_epoch"


class UnfinishedEpoch(Callback):
    """Keeps, for the rest of the epoch, random generators and the metrics of its first part.

    Of every process: the states of torch's, NumPy's and Python's generators and of
    ``module.train_metrics``. Of the run: the metrics that the epoch has logged, and what its order
    of samples depends on. The place in that order is the state of the loader.
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] | None = None

    def on_save_checkpoint(
        self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        begun = trainer.fit_loop.epoch_loop.batch_progress.current.ready > 0
        if begun and not trainer.is_last_batch:
            checkpoint[KEY] = {
                "order": order_of(trainer),
                "processes": of_all_processes(trainer, process_state(module)),
                "metrics": {k: float(value) for k, value in trainer.callback_metrics.items()},
            }

    def on_load_checkpoint(
        self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Raises an InputError where the order of the epoch is another than it was."""
        state = checkpoint.get(KEY)
        if state is None or trainer.state.fn != "fit":
            return
        here = order_of(trainer)
        for name, was in state["order"].items():
            if here[name] != was:
                raise InputError(
                    f"{name} is {here[name]}; accepted with --resume of a run that was stopped "
                    f"within an epoch: what that epoch began with, {was}"
                )
        self.state = state

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.state is not None:
            restore(module, self.state["processes"][trainer.global_rank])
            metrics = self.state["metrics"].items()
            trainer.callback_metrics.update({name: torch.tensor(x) for name, x in metrics})
            self.state = None


def order_of(trainer: Trainer) -> dict[str, Any]:
    """What decides which samples a step of an epoch has, by the names of the options."""
    data = trainer.datamodule
    weights = data.sample_weights()
    return {
        "data.batch_size": data.batch_size,
        "data.seed": data.seed,
        "data.sampler": data.sampler,
        "data, a number of its training labels,": None if weights is None else checksum(weights),
        "trainer.accumulate_grad_batches": trainer.accumulate_grad_batches,
        "trainer.limit_train_batches": trainer.limit_train_batches,
        "trainer.devices, all of them,": trainer.world_size,
        "data, its number of training samples,": len(data.train_dataset),
    }


def checksum(weights: Tensor) -> int:
    return zlib.crc32(weights.numpy().tobytes())


def of_all_processes(trainer: Trainer, state: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of all processes, in the order of their ranks."""
    if trainer.world_size == 1:
        return [state]
    states = [None] * trainer.world_size
    torch.distributed.all_gather_object(states, state)
    return states


def process_state(module: LightningModule) -> dict[str, Any]:
    """Random generators and training metrics of this process, as plain values and tensors."""
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(module.device) if module.device.type == "cuda" else None,
        "numpy": (name, keys.tolist(), *rest),
        "python": random.getstate(),
        "metrics": {
            place: {name: to(value, "cpu") for name, value in metric.metric_state.items()}
            for place, metric in metrics_of(module)
        },
    }


def restore(module: LightningModule, state: dict[str, Any]) -> None:
    """Set what :func:`process_state` has read."""
    torch.set_rng_state(state["torch"])
    if module.device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], module.device)
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
    for place, metric in metrics_of(module):
        for name, value in state["metrics"][place].items():
            setattr(metric, name, to(value, module.device))


def metrics_of(module: LightningModule) -> list[tuple[str, Metric]]:
    """Metrics of the training set, by their place in ``module.train_metrics``."""
    parts = module.train_metrics.named_modules()
    return [(place, part) for place, part in parts if isinstance(part, Metric)]


def to(value: Tensor | list[Tensor], device: str | torch.device) -> Tensor | list[Tensor]:
    """A copy of a metric's state, which is a tensor or a list of tensors, on a device."""
    if isinstance(value, list):
        return [to(item, device) for item in value]
    return value.detach().to(device, copy=True)
