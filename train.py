"""Fit an experiment from a config, its explanations logged as it learns.

python train.py                                        # configs/vit_digits.yaml
python train.py --config FILE run_dir=runs/mine model.lr=1e-4 trainer.max_epochs=20
python train.py --resume RUN_DIR
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from configs.schema import imports_of, load_config
from lightning_modules.utils import cli, run_folder
from lightning_modules.utils.errors import InputError, as_input_error, short_message
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
    """Fit and test an experiment, from a checkpoint or from its beginning."""
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    from lightning_modules.callbacks import endings
    from lightning_modules.callbacks.stops import sigterm_as_ctrl_c
    from lightning_modules.callbacks.terminal import Terminal

    try:
        run_folder.wait_for_a_later_name(config.run_dir)
        data, model, trainer = build(config, checkpoint)
        run_folder.check_writable(config.run_dir)
    except (InputError, ValueError, TypeError, OSError, MisconfigurationException) as error:
        fail(error, config.imports)
    trainer.callbacks.append(Terminal(config))  # after all that measures
    try:
        with sigterm_as_ctrl_c():
            reason = fit(data, model, trainer, checkpoint)
            endings.print_end(config, data, trainer, test(config, data, model, trainer))
    except (InputError, UnsupportedModel, MisconfigurationException) as error:
        fail(error, config.imports)
    except OSError as error:
        fail(f"{error}{endings.how_to_carry_on(config)}")
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error):  # torch's words for a disk that is full
            raise
        reason = str(error).splitlines()[0]
        fail(f"a checkpoint could not be written ({reason}){endings.how_to_carry_on(config)}")
    except SystemExit:  # Lightning's, at Ctrl-C
        endings.stopped(config)
    if reason is not None:
        endings.print_early_end(config, model, reason)


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
    from lightning.pytorch.loggers import TensorBoardLogger

    from lightning_modules.callbacks import SaveConfig, Stops, UnfinishedEpoch
    from lightning_modules.callbacks.terminal import EpochBar
    from lightning_modules.models.checkpoint_io import AtomicCheckpointIO

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
    bar = options.pop("enable_progress_bar", True) is not False and sys.stdout.isatty()
    chosen += [EpochBar()] if bar else []
    options.setdefault("enable_model_summary", False)  # most of its rows are metrics
    with as_input_error("trainer", "options of lightning.Trainer that go together"):
        return Trainer(
            default_root_dir=config.run_dir,
            logger=logger,
            callbacks=chosen,
            plugins=plugins,
            enable_progress_bar=bar,
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
        raise SystemExit(130)
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
