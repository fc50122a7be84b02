"""Ends a run at an optimizer step, so that a resumed run goes on from there."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from lightning_modules.utils.options import check_option
from lightning_modules.utils.terminal import tell

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Why a run stops. Of several processes with different reasons all take the last of them.
REASONS = (None, "trainer.max_steps", "trainer.max_time", "signal")


class Stopped(Exception):
    """Training has ended before its last epoch, with all that a resume needs in ``last.ckpt``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Stops(Callback):
    """Stops training at ``max_steps``, after ``max_time``, and at SIGTERM or Ctrl-C.

    Lightning's own limits count an epoch that they break off as done. Here a checkpoint is written
    at the end of the optimizer step under way (with accumulated gradients: of the window under
    way), and :class:`Stopped` is raised before the next one. A stop that is asked for during
    validation waits for its end. A second signal is a KeyboardInterrupt at once.

    Args:
        folder: of the checkpoints; ``last.ckpt`` is written there.
        max_steps: optimizer steps in all; -1 is no limit.
        max_time: duration of each start, as ``Trainer(max_time=...)`` takes it; None is no limit.
    """

    def __init__(
        self,
        folder: str | Path,
        max_steps: int = -1,
        max_time: str | timedelta | dict[str, int] | None = None,
    ) -> None:
        check_option("trainer.max_steps", max_steps, max_steps >= -1, "at least 0, or -1")
        self.path = Path(folder) / "last.ckpt"
        self.max_steps = max_steps
        self.timer = Timer(max_time)  # it measures, and stops nothing
        self.reason: str | None = None
        self.resumable = False  # the next step may be left to a resumed run

    # ------------------------------------------------------------------------ being asked to

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        # Lightning, which has its own handlers by now, puts back those of before when it is done.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self.ask)
        self.timer.on_train_start(trainer, module)
        if self._steps_are_done(trainer):  # by the run that is resumed
            self.reason, self.resumable = "trainer.max_steps", True

    def ask(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal."""
        if self.reason == "signal":
            raise KeyboardInterrupt
        self.reason = "signal"
        tell(
            "train.py: stopping at the end of this step, or of the validation under way; Ctrl-C "
            "again stops at once"
        )

    # ------------------------------------------------------------------------------ stopping

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not trainer.is_last_batch:
            return
        remaining = self.timer.time_remaining()
        if self._steps_are_done(trainer):
            self.reason = self.reason or "trainer.max_steps"
        elif remaining is not None and remaining <= 0:
            self.reason = self.reason or "trainer.max_time"
        self.reason = agreed(trainer, self.reason)
        # Later where a checkpoint follows, or where validation does: its results would be lost.
        if self.reason and not (trainer.is_last_batch or validation_follows(trainer, batch_idx)):
            if not trainer.overfit_batches:  # whose sampler knows no place within an epoch
                trainer.save_checkpoint(self.path, weights_only=False)
            self.resumable = True

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.resumable = self.reason is not None

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.resumable:
            raise Stopped(self.reason)

    def _steps_are_done(self, trainer: Trainer) -> bool:
        return -1 < self.max_steps <= trainer.global_step


def agreed(trainer: Trainer, reason: str | None) -> str | None:
    """The reason of any of the processes: all stop at the same step."""
    if trainer.world_size == 1:
        return reason
    number = torch.tensor(REASONS.index(reason), device=trainer.strategy.root_device)
    return REASONS[int(trainer.strategy.reduce(number, reduce_op="max"))]


def validation_follows(trainer: Trainer, batch_idx: int) -> bool:
    """True if ``trainer.val_check_interval`` has a validation follow this batch of an epoch."""
    every = trainer.val_check_batch
    if trainer.check_val_every_n_epoch is None:  # validation goes by all batches of the run
        batch_idx = trainer.fit_loop.total_batch_idx
    return isinstance(every, int) and (batch_idx + 1) % every == 0


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """A cluster's polite request to stop is as a person's; in a thread nothing is set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
