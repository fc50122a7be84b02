"""A run's folder before training: what of it is carried on, and whether it can be written to."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_modules.utils.errors import InputError
from lightning_modules.utils.terminal import is_first_process

# Options of a resumed run's model, which stay as they were.
MODEL = (
    "name",
    "config",
    "pretrained",
    "weights",
    "previous",
    "model_options",
    "lora",
    "freeze",
)


def check_resumed(run_dir: Path, overrides: Sequence[str] = ()) -> None:
    """Raises an error where there is no run to resume, or an override asks for another folder."""
    if not (run_dir / "config.yaml").is_file():
        raise FileNotFoundError(f"--resume {run_dir}: no run is there (no config.yaml)")
    for override in overrides:
        if override.partition("=")[0] == "run_dir":
            raise InputError(
                f"{override}: a run is resumed in its own folder; accepted with --resume "
                f"{run_dir}: any option but run_dir"
            )


def check_same_model(begun: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raises an InputError where a resume asks for another model than the run began with.

    Each is a config's section ``model``. Rates of dropout within its options may change.
    """
    for option in MODEL:
        was, now = (without_dropout(model.get(option)) for model in (begun, config))
        if was != now:
            raise InputError(
                f"model.{option} is {now}; accepted with --resume: what the run began with, {was}"
            )


def without_dropout(option: Any) -> Any:
    """An option of the model, less the rates of dropout within it, which a resume may change."""
    if not isinstance(option, Mapping):
        return option
    return {name: value for name, value in option.items() if not name.endswith("drop_rate")}


def last_checkpoint(run_dir: Path, resume: bool, trial: bool) -> Path | None:
    """The checkpoint to carry on from; None for a new run, which must not write into an old one.

    A ``trial`` writes into no run.
    """
    last = run_dir / "checkpoints" / "last.ckpt"
    if resume:
        return last if last.is_file() else None  # stopped before its first checkpoint: from scratch
    if (run_dir / "config.yaml").exists() and not trial and is_first_process():
        raise FileExistsError(
            f"run_dir {run_dir} holds a run; carry on with --resume {run_dir}, or choose another "
            "with run_dir=..."
        )
    return None


@contextmanager
def of_trial(config: DictConfig) -> Iterator[DictConfig]:
    """The config; that of a trial (``fast_dev_run``) in a folder that is gone afterwards."""
    if not config.trainer.get("fast_dev_run"):
        yield config
        return
    with tempfile.TemporaryDirectory() as folder:
        yield OmegaConf.merge(config, {"run_dir": folder})


def wait_for_a_later_name(run_dir: str) -> None:
    """TensorBoard reads a run's event files by name: the second they were made in, then the host.

    One that is made within the second of the last one might be read before it.
    """
    if any(Path(run_dir).glob("events.out.tfevents.*")):
        time.sleep(1)


def check_writable(run_dir: str) -> None:
    """Known here, it is one line; in the thread that writes for TensorBoard, a traceback."""
    if not is_first_process():
        return
    try:
        Path(run_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=run_dir):
            pass
    except OSError as error:
        raise InputError(
            f"run_dir {run_dir}: {error.strerror}; accepted: a folder that can be written to"
        ) from error
