"""Fit an experiment from a config, its explanations logged as it learns.

python train.py                                        # configs/vit_digits.yaml
python train.py --config FILE run_dir=runs/mine model.lr=1e-4 trainer.max_epochs=20
python train.py --resume RUN_DIR

From Python, as for a sweep: ``train(load_config(FILE, ["model.lr=1e-4"]))``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from configs.schema import complete_config, imports_of, load_config
from lightning_modules.utils import cli, run_folder
from lightning_modules.utils.errors import InputError, as_input_error, message_of, short_message
from lightning_modules.utils.files import replace_file
from lightning_modules.utils.terminal import quiet
from relprop.errors import UnsupportedModel

# What takes seconds to import is imported where it is used: help and errors do not wait for it.
if TYPE_CHECKING:
    from lightning import Callback, Trainer

    from lightning_modules.data import DataModule
    from lightning_modules.models.classifier import Classifier

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "vit_digits.yaml"
fail = partial(cli.fail, "train.py")


def main(argv: list[str] | None = None) -> None:
    """Train, then test the best checkpoint. What the user got wrong: one line, exit code 2."""
    arguments = parse(argv)
    try:
        if arguments.imports:
            with quiet("train.py"):
                cli.import_modules(arguments.imports)
        config = read_config(arguments)
        if arguments.print_config:
            print(OmegaConf.to_yaml(config), end="")
            return
        trial, resume = bool(config.trainer.get("fast_dev_run")), arguments.resume is not None
        checkpoint = run_folder.last_checkpoint(Path(config.run_dir), resume, trial)
    except (InputError, ValueError, OSError) as error:
        fail(error, imports_of(config_file(arguments)))
    from lightning_modules.callbacks import endings

    with quiet("train.py"):
        try:
            if not trial:
                run(config, checkpoint)
                return
            with tempfile.TemporaryDirectory() as folder:  # a trial leaves nothing
                run(OmegaConf.merge(config, {"run_dir": folder}), checkpoint)
        except KeyboardInterrupt:  # before or after training
            endings.stopped(config)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser("train.py", __doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--config", metavar="FILE", default=DEFAULT_CONFIG)
    source.add_argument("--resume", metavar="RUN_DIR", help="carry on from its last checkpoint")
    parser.add_argument("--print-config", action="store_true", help="print it, complete, and stop")
    parser.add_import()
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="over the config's own")
    return parser.parse_intermixed_args(argv)


def config_file(arguments: argparse.Namespace) -> Path:
    """The config that the command line names."""
    if arguments.resume is None:
        return Path(arguments.config)
    return Path(arguments.resume, "config.yaml")


def read_config(arguments: argparse.Namespace) -> DictConfig:
    """The complete config of the run, with the names of the modules that are imported for it."""
    path, overrides = config_file(arguments), arguments.overrides
    if arguments.resume is not None:
        run_folder.check_resumed(path.parent, overrides)
        overrides = [*overrides, f"run_dir={path.parent}"]
    config = load_config(path, overrides)
    if arguments.resume is not None:
        run_folder.check_same_model(load_config(path, overrides[-1:]).model, config.model)
    config.run_dir = os.path.expanduser(config.run_dir)
    config.imports = list(dict.fromkeys([*config.imports, *arguments.imports]))
    return config


def run(config: DictConfig, checkpoint: Path | None) -> None:
    """Fit and test an experiment, and say in the terminal how it goes."""
    from lightning_modules.callbacks import endings
    from lightning_modules.callbacks.stops import sigterm_as_ctrl_c
    from lightning_modules.callbacks.terminal import Terminal

    try:
        with sigterm_as_ctrl_c():
            ended = experiment(config, checkpoint, Terminal(config))
            endings.print_end(config, ended.data, ended.trainer, ended.tested)
    except InputError as error:
        fail(error, config.imports)
    if ended.reason is not None:
        endings.print_early_end(config, ended.model, ended.reason)


def train(config: DictConfig | Mapping[str, Any], resume: bool = False) -> dict[str, float]:
    """Fit and test an experiment from Python, as for a sweep.

    Random generators, warnings and torch's switches are afterwards as they were before.

    Args:
        config: as :func:`configs.schema.load_config` makes it, or what a file of it would hold.
        resume: carry on with the run in the config's ``run_dir``.

    Returns:
        The metrics of the best epoch, with its number as ``epoch``, and those of the test.

    Raises:
        InputError: what a user got wrong, as the command would print it.
        KeyboardInterrupt: Ctrl-C, or a signal.
    """
    from lightning_modules.callbacks import endings
    from lightning_modules.utils.process_state import as_before

    with as_before():
        try:
            config = complete_config(config)
            checkpoint = run_folder.last_checkpoint(Path(config.run_dir), resume, trial=False)
        except (ValueError, OSError) as error:
            raise InputError(message_of(error)) from error
        ended = experiment(config, checkpoint)
        return {**(endings.best_epoch(ended.trainer) or {}), **ended.tested}


@dataclass
class Ended:
    """An experiment that has ended: the metrics of its test, and the option that cut it short."""

    data: DataModule
    model: Classifier
    trainer: Trainer
    tested: dict[str, float]
    reason: str | None


def experiment(config: DictConfig, checkpoint: Path | None, *watching: Callback) -> Ended:
    """Fit and test, from a checkpoint or from the beginning.

    Raises:
        InputError: what a user got wrong.
        KeyboardInterrupt: Ctrl-C, or a signal.
    """
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    from lightning_modules.callbacks import endings
    from lightning_modules.loggers import finish

    try:
        run_folder.wait_for_a_later_name(config.run_dir)
        data, model, trainer = build(config, checkpoint)
        run_folder.check_writable(config.run_dir)
    except InputError:
        raise
    except (ValueError, TypeError, OSError, MisconfigurationException) as error:
        raise InputError(message_of(error)) from error
    trainer.callbacks += watching  # after all that measures
    try:
        reason = fit(data, model, trainer, checkpoint)
        return Ended(data, model, trainer, test(config, data, model, trainer), reason)
    except (UnsupportedModel, MisconfigurationException) as error:
        raise InputError(message_of(error)) from error
    except OSError as error:
        raise InputError(f"{message_of(error)}{endings.how_to_carry_on(config)}") from error
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error):  # torch's words for a disk that is full
            raise
        said, how = str(error).splitlines()[0], endings.how_to_carry_on(config)
        raise InputError(f"a checkpoint could not be written ({said}){how}") from error
    except SystemExit:  # Lightning's, at Ctrl-C
        raise KeyboardInterrupt from None
    finally:
        finish(trainer.loggers)


def build(config: DictConfig, checkpoint: Path | None):
    """Data, classifier and trainer of an experiment."""
    import lightning

    from lightning_modules.data import DATAMODULES
    from lightning_modules.models import CLASSIFIERS, fit_checks
    from lightning_modules.models.checkpoints import PARTS_TO_RESUME, read_checkpoint

    trainer_options = OmegaConf.to_container(config.trainer)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    data_options = OmegaConf.to_container(config.data)
    data = DATAMODULES[data_options.pop("kind")](**data_options)
    model_options = OmegaConf.to_container(config.model)
    state = {"global_step": 0, "without_sources": {}}
    if checkpoint is None:
        fit_checks.check_model_options(model_options.get("model_options"))
    else:
        state = read_checkpoint(checkpoint, PARTS_TO_RESUME)
        data.take_inputs(state["hyper_parameters"].get("input_config", {}))
    model_options |= state["without_sources"]
    model = CLASSIFIERS[model_options.pop("kind")](
        class_names=data.class_names, input_config=data.input_config, **model_options
    )
    model.check_inputs()
    if checkpoint is not None:
        fit_checks.check_goes_on(model, state, checkpoint)
    return data, model, make_trainer(config, trainer_options, state["global_step"])


def make_trainer(config: DictConfig, options: dict[str, Any], step: int) -> Trainer:
    """Lightning's, for a run that begins at a step."""
    from lightning import Trainer
    from lightning.pytorch.callbacks import ProgressBar

    from lightning_modules.callbacks import SaveConfig, Stops, UnfinishedEpoch, make_callbacks
    from lightning_modules.callbacks.terminal import EpochBar
    from lightning_modules.loggers import Place, make_loggers
    from lightning_modules.models.checkpoint_io import AtomicCheckpointIO

    limits = {name: options.pop(name) for name in ("max_steps", "max_time") if name in options}
    stops = Stops(Path(config.run_dir) / "checkpoints", **limits)
    limited = stops.max_steps != -1 or limits.get("max_time") is not None
    if limited and options.get("max_epochs") is None:
        options["max_epochs"] = -1  # as Lightning has it
    loggers = make_loggers(config.loggers, Place(Path(config.run_dir), step))
    plugins = [AtomicCheckpointIO(), *options.pop("plugins", [])]
    chosen = [SaveConfig(config), *callbacks(config), UnfinishedEpoch()]
    # What averages weights has done so when a stop writes its checkpoint, and puts them in place
    # for the tracker, which comes before it.
    chosen += [*make_callbacks(config.callbacks), stops]
    own_bar = any(isinstance(x, ProgressBar) for x in chosen)
    bar = options.pop("enable_progress_bar", True) is not False and sys.stdout.isatty()
    chosen += [EpochBar()] if bar and not own_bar else []
    options.setdefault("enable_model_summary", False)  # most of its rows are metrics
    with as_input_error("trainer", "options of lightning.Trainer that go together"):
        return Trainer(
            default_root_dir=config.run_dir,
            logger=loggers or False,
            callbacks=chosen,
            plugins=plugins,
            enable_progress_bar=bar or own_bar,
            **options,
        )


def callbacks(config: DictConfig) -> list[Callback]:
    from lightning_modules.callbacks import (
        EpochCheckpoint,
        FiniteSteps,
        MetricsTable,
        Patience,
        RelevanceTracker,
    )

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


def fit(
    data: DataModule, model: Classifier, trainer: Trainer, checkpoint: Path | None
) -> str | None:
    """Train; the option that has ended training before its schedule did, if one has."""
    from lightning_modules.callbacks import Stopped

    reason = None
    try:
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except Stopped as stop:
        reason = stop.reason
    except ValueError as error:
        if "val_check_interval" not in str(error):
            raise
        raise InputError(f"trainer.val_check_interval: {short_message(error)}") from error
    if reason == "signal":
        raise KeyboardInterrupt
    patience = trainer.early_stopping_callback
    if patience is not None and patience.wait_count >= patience.patience:
        reason = reason or "patience"
    return reason if model.progress() < 1 else None


def test(config: DictConfig, data: DataModule, model: Classifier, trainer: Trainer) -> dict:
    """Metrics of the best checkpoint, also in ``metrics.json``; none where nothing is tested."""
    run_dir = Path(config.run_dir)
    best = run_dir / "checkpoints" / "best.ckpt"
    path = best if best.is_file() else None
    found = trainer.test(model, datamodule=data, ckpt_path=path, weights_only=True, verbose=False)
    metrics = found[0] if found else {}
    if trainer.is_global_zero and metrics:  # none with trainer.limit_test_batches=0
        text = json.dumps(metrics, indent=2) + "\n"
        replace_file(run_dir / "metrics.json", lambda file: file.write(text.encode()))
    return metrics


if __name__ == "__main__":
    main()
