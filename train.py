"""Fit an experiment from a config, its explanations logged as it learns.

python train.py                                        # configs/vit_digits.yaml
python train.py --config FILE run_dir=runs/mine model.lr=1e-4 trainer.max_epochs=20
python train.py --resume RUN_DIR
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from configs.schema import load_config
from lightning_modules import CLASSIFIERS
from lightning_modules.callbacks import (
    EpochCheckpoint,
    FiniteSteps,
    MetricsTable,
    Patience,
    RelevanceTracker,
    SaveConfig,
    Stopped,
    Stops,
    UnfinishedEpoch,
)
from lightning_modules.data import DATAMODULES, DataModule
from lightning_modules.models.checkpoint_io import AtomicCheckpointIO
from lightning_modules.models.checkpoints import PARTS_TO_RESUME, read_checkpoint
from lightning_modules.models.classifier import Classifier, schedule
from lightning_modules.models.fit_checks import (
    check_goes_on,
    check_model_options,
)
from lightning_modules.models.run_folder import (
    check_same_model,
    check_writable,
    last_checkpoint,
    wait_for_a_later_name,
)
from lightning_modules.utils.errors import InputError, blamed_on, said
from lightning_modules.utils.files import replace_file
from lightning_modules.utils.names import one_line
from relprop import UnsupportedModel

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "vit_digits.yaml"


def main(argv: list[str] | None = None) -> None:
    """Train, then test the best checkpoint. What the user got wrong: one line, exit code 2."""
    arguments = parse(argv)
    try:
        config = read_config(arguments)
        config.run_dir = os.path.expanduser(config.run_dir)
        if arguments.print_config:
            print(OmegaConf.to_yaml(config), end="")
            return
        trial = bool(config.trainer.get("fast_dev_run"))
        checkpoint = last_checkpoint(Path(config.run_dir), arguments.resume is not None, trial)
    except (InputError, ValueError, OSError) as error:
        fail(error)
    try:
        if not trial:
            run(config, checkpoint)
            return
        with tempfile.TemporaryDirectory() as folder:  # a trial leaves nothing
            run(OmegaConf.merge(config, {"run_dir": folder}), checkpoint)
    except KeyboardInterrupt:  # before or after training
        stopped(config)


def run(config: DictConfig, checkpoint: Path | None) -> None:
    """Fit and test an experiment, from a checkpoint or from its beginning."""
    try:
        wait_for_a_later_name(config.run_dir)
        data, model, trainer = build(config, checkpoint)
        check_writable(config.run_dir)
    except (InputError, ValueError, TypeError, OSError, MisconfigurationException) as error:
        fail(error)
    try:
        with sigterm_as_ctrl_c():
            reason = fit(data, model, trainer, checkpoint)
            test(config, data, model, trainer)
    except (InputError, UnsupportedModel, MisconfigurationException) as error:
        fail(error)
    except OSError as error:
        fail(f"{error}{how_to_carry_on(config)}")
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error):  # torch's words for a disk that is full
            raise
        reason = str(error).splitlines()[0]
        fail(f"a checkpoint could not be written ({reason}){how_to_carry_on(config)}")
    except SystemExit:  # Lightning's, at Ctrl-C
        stopped(config)
    if reason is not None:
        print_early_end(config, model, reason)


def fit(
    data: DataModule, model: Classifier, trainer: Trainer, checkpoint: Path | None
) -> str | None:
    """Train; the option that has ended training before its schedule did, if one has."""
    reason = "patience"
    try:
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except Stopped as stop:
        reason = stop.reason
    except ValueError as error:
        if "val_check_interval" not in str(error):
            raise
        raise InputError(f"trainer.val_check_interval: {said(error)}") from error
    if reason == "signal":
        raise SystemExit(130)
    return reason if model.progress() < 1 else None


def stopped(config: DictConfig) -> None:
    print(f"train.py: stopped{one_line(how_to_carry_on(config))}", file=sys.stderr)
    raise SystemExit(130) from None


@rank_zero_only
def print_early_end(config: DictConfig, model: Classifier, reason: str) -> None:
    """The last line of a run whose learning rate has not fallen to its end."""
    option = f"{reason}={OmegaConf.select(config, reason)}"
    more = {"trainer.max_steps": " trainer.max_steps=MORE", "patience": " patience=MORE"}
    progress = model.progress()
    print(
        one_line(
            f"{option} ended the run at {progress:.0%} of its training, with the learning rate at "
            f"{schedule(progress, model.hparams.warmup):.0%} of its peak"
            f"{how_to_carry_on(config)}{more.get(reason, '')}"
        )
    )


def how_to_carry_on(config: DictConfig) -> str:
    """To be added to why a run has ended, if there is one by now."""
    begun = (Path(config.run_dir) / "config.yaml").is_file() and not config.trainer.get(
        "fast_dev_run"
    )
    return f"; to carry on: python train.py --resume {config.run_dir}" if begun else ""


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """A cluster's polite request to stop is as a person's."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.error = fail  # one line, without the usage
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", metavar="FILE", default=DEFAULT_CONFIG)
    source.add_argument("--resume", metavar="RUN_DIR", help="carry on from its last checkpoint")
    parser.add_argument("--print-config", action="store_true", help="print it, complete, and stop")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="over the config's own")
    return parser.parse_intermixed_args(argv)


def fail(error: object) -> None:
    """What was wrong and what is accepted, on one line; exit code 2."""
    message = str(error)
    if "Original Traceback" in message:  # a loader's worker sends its whole traceback
        message = message.strip().splitlines()[-1].partition(": ")[2]
    print(f"train.py: {one_line(message)}", file=sys.stderr)
    raise SystemExit(2)


def read_config(arguments: argparse.Namespace) -> DictConfig:
    if arguments.resume is None:
        return load_config(arguments.config, arguments.overrides)
    run_dir = Path(arguments.resume)
    if not (run_dir / "config.yaml").is_file():
        raise FileNotFoundError(f"--resume {run_dir}: no run is there (no config.yaml)")
    for override in arguments.overrides:
        if override.partition("=")[0] == "run_dir":
            raise InputError(
                f"{override}: a run is resumed in its own folder; accepted with --resume "
                f"{run_dir}: any option but run_dir"
            )
    begun, config = (
        load_config(run_dir / "config.yaml", [*overrides, f"run_dir={run_dir}"])
        for overrides in ([], arguments.overrides)
    )
    check_same_model(begun.model, config.model)
    return config


def build(config: DictConfig, checkpoint: Path | None):
    """Data, classifier and trainer of an experiment."""
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    trainer_options = OmegaConf.to_container(config.trainer)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    data_options = OmegaConf.to_container(config.data)
    data = DATAMODULES[data_options.pop("kind")](**data_options)
    model_options = OmegaConf.to_container(config.model)
    state = {"global_step": 0, "without_sources": {}}
    if checkpoint is None:
        check_model_options(model_options.get("model_options"))
    else:
        state = read_checkpoint(checkpoint, PARTS_TO_RESUME)
        data.take_inputs(state["hyper_parameters"].get("input_config", {}))
    model_options |= state["without_sources"]
    model = CLASSIFIERS[model_options.pop("kind")](
        class_names=data.class_names, input_config=data.input_config, **model_options
    )
    model.check_inputs()
    if checkpoint is not None:
        check_goes_on(model, state, checkpoint)
    return data, model, make_trainer(config, trainer_options, state["global_step"])


def make_trainer(config: DictConfig, options: dict[str, Any], step: int) -> Trainer:
    """Lightning's, for a run that begins at a step."""
    limits = {name: options.pop(name) for name in ("max_steps", "max_time") if name in options}
    stops = Stops(Path(config.run_dir) / "checkpoints", **limits)
    limited = stops.max_steps != -1 or limits.get("max_time") is not None
    if limited and options.get("max_epochs") is None:
        options["max_epochs"] = -1  # as Lightning has it
    logger = TensorBoardLogger(
        config.run_dir,
        name="",
        version="",
        default_hp_metric=False,
        purge_step=step,  # TensorBoard forgets what came after
    )
    plugins = [AtomicCheckpointIO(), *options.pop("plugins", [])]
    chosen = [SaveConfig(config), *callbacks(config), UnfinishedEpoch(), stops]
    with blamed_on("trainer", "options of lightning.Trainer that go together"):
        return Trainer(
            default_root_dir=config.run_dir,
            logger=logger,
            callbacks=chosen,
            plugins=plugins,
            **options,
        )


def callbacks(config: DictConfig) -> list[Callback]:
    folder = Path(config.run_dir) / "checkpoints"
    chosen = [
        FiniteSteps(config.run_dir, config.on_nonfinite),
        MetricsTable(config.run_dir),
        EpochCheckpoint(folder, "best", monitor="val/accuracy"),
        EpochCheckpoint(folder, "last"),  # after it, so that it knows the best one
    ]
    if config.patience is not None:
        chosen.append(Patience(config.patience))
    if config.tracker is not None:
        chosen.insert(0, RelevanceTracker(run_dir=config.run_dir, **config.tracker))
    return chosen


def test(config: DictConfig, data, model, trainer: Trainer) -> None:
    """Test metrics of the best checkpoint, in ``metrics.json``."""
    run_dir = Path(config.run_dir)
    best = run_dir / "checkpoints" / "best.ckpt"
    metrics = trainer.test(
        model, datamodule=data, ckpt_path=best if best.is_file() else None, weights_only=True
    )
    if trainer.is_global_zero and metrics:  # none with trainer.limit_test_batches=0
        text = json.dumps(metrics[0], indent=2) + "\n"
        replace_file(run_dir / "metrics.json", lambda file: file.write(text.encode()))


if __name__ == "__main__":
    main()
