"""No step is taken along a gradient that is no number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from lightning_modules.utils.errors import InputError


class FiniteSteps(Callback):
    """Before every step: are all gradients finite, and with them the loss?

    If not, the step is not taken. ``stop``: training ends, with the weights of before in
    ``run_dir/checkpoints/before-nonfinite.ckpt``. ``skip``: it goes on with the next batch. With
    fp16 mixed precision the gradient scaler, to which this happens as a matter of course, skips.
    """

    def __init__(self, run_dir: str | Path, action: str) -> None:
        if action not in ("stop", "skip"):
            raise ValueError(f"on_nonfinite is {action!r}; accepted: stop, skip")
        self.path = Path(run_dir) / "checkpoints" / "before-nonfinite.ckpt"
        self.action = action
        self.batch_idx = 0

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batch_idx = batch_idx

    def on_before_optimizer_step(
        self, trainer: Trainer, module: LightningModule, optimizer: Optimizer
    ) -> None:
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients or torch.isfinite(get_total_norm(gradients)):
            return
        optimizer.zero_grad()  # without gradients a step changes nothing
        loss = float(trainer.callback_metrics["train/loss"])
        where = (
            f"step {trainer.global_step} (epoch {trainer.current_epoch}, batch {self.batch_idx}): "
            f"the gradient is not finite, the loss is {loss}"
        )
        if self.action == "skip":
            rank_zero_warn(f"{where}; skipped")
            return
        trainer.save_checkpoint(self.path)
        of_guidance = (
            "" if getattr(module, "guidance", None) is None else "guidance.weight, a lower "
        )
        raise InputError(
            f"{where}; stopped, the weights of before are in {self.path}. Accepted: a lower "
            f"{of_guidance}model.lr, trainer.gradient_clip_val=1.0, or on_nonfinite=skip"
        )
