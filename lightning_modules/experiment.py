"""An experiment: what its config makes, trained and then tested."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from lightning_modules.callbacks import (
    BackgroundFigures,
    EpochCheckpoint,
    FiniteSteps,
    MetricsTable,
    Patience,
    RelevanceTracker,
    SaveConfig,
    SaveTeacher,
    Stopped,
    Stops,
    UnfinishedEpoch,
    endings,
    make_callbacks,
)
from lightning_modules.callbacks.class_table import write_classes
from lightning_modules.callbacks.terminal import EpochBar
from lightning_modules.data import DATAMODULES, DataModule
from lightning_modules.distillation import Distillation
from lightning_modules.guidance import Guidance
from lightning_modules.loggers import Place, finish, make_loggers
from lightning_modules.models import CLASSIFIERS, fit_checks
from lightning_modules.models.checkpoint_io import AtomicCheckpointIO
from lightning_modules.models.checkpoints import PARTS_TO_RESUME, read_checkpoint
from lightning_modules.models.classifier import Classifier
from lightning_modules.models.teacher import Teacher, earlier_classes, first_weights
from lightning_modules.tasks import TASKS, balanced_weights
from lightning_modules.utils import run_folder
from lightning_modules.utils.errors import InputError, as_input_error, message_of, short_message
from lightning_modules.utils.files import replace_file
from relprop.errors import UnsupportedModel


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
        reason = fit(config, data, model, trainer, checkpoint)
        return Ended(data, model, trainer, test(config, data, model, trainer), reason)
    except SystemExit:  # Lightning's, at Ctrl-C
        raise KeyboardInterrupt from None
    except Exception as error:
        said = input_error(error, config)
        if said is None:
            raise
        raise said from error
    finally:
        finish(trainer.loggers)


def input_error(error: Exception, config: DictConfig) -> InputError | None:
    """What a user got wrong, of an error while training; None where it is not the user's."""
    message = str(error)
    if isinstance(error, UnsupportedModel | MisconfigurationException):
        return InputError(message_of(error))
    if isinstance(error, OSError):
        return InputError(f"{message_of(error)}{endings.how_to_carry_on(config)}")
    if "PytorchStreamWriter" in message:  # torch's words for a disk that is full
        said, how = message.splitlines()[0], endings.how_to_carry_on(config)
        return InputError(f"a checkpoint could not be written ({said}){how}")
    if "Early stopping conditioned on metric" in message:
        return InputError(f"callbacks.EarlyStopping.monitor: {short_message(error)}")
    if "optimizer got an empty parameter list" in message:
        return InputError(
            "callbacks: no parameter of the model is left to train; accepted: those that leave some"
        )
    return None


def build(config: DictConfig, checkpoint: Path | None):
    """Data, classifier and trainer of an experiment."""
    trainer_options = OmegaConf.to_container(config.trainer)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    data_options = OmegaConf.to_container(config.data)
    data = DATAMODULES[data_options.pop("kind")](**data_options)
    fit_checks.check_kinds(data.input_config, config.data.kind, config.model.kind, CLASSIFIERS)
    model_options = OmegaConf.to_container(config.model)
    state = {"global_step": 0, "without_sources": {}}
    teacher, run_dir = None, Path(config.run_dir)
    if checkpoint is None:
        fit_checks.check_model_options(model_options.get("model_options"))
        if model_options.get("previous") is not None:
            model_options["previous"] = first_weights(model_options["previous"], run_dir)
            data.add_classes(earlier_classes(model_options["previous"]))
    else:
        state = read_checkpoint(checkpoint, PARTS_TO_RESUME)
        data.take_inputs(state["hyper_parameters"].get("input_config", {}))
        if "teacher" in state:
            teacher = Teacher.of_run(run_dir, state["teacher"])
            data.add_classes(teacher.class_names)
    model_options |= state["without_sources"]
    fit_checks.check_one_task(config)
    fit_checks.say_if_prepared_otherwise(config)
    if model_options.get("class_weights") == "balanced":
        labels = data.train_labels("model.class_weights")
        model_options["class_weights"] = balanced_weights(labels, data.class_names)
    data.sample_weights()  # an InputError where there are none
    model = CLASSIFIERS[model_options.pop("kind")](
        class_names=data.class_names, input_config=data.input_config, **model_options
    )
    model.check_inputs()
    if teacher is not None:
        model.take_teacher(teacher)
    if config.distill is not None:
        model.distillation = Distillation(**config.distill)
        if model.distillation.of_masks:
            data.mask_train("distill.region=relevance")
    guidance = None if config.guidance is None else Guidance(**config.guidance)
    if guidance is not None and guidance.weight > 0:
        data.mask_train()
        model.guidance = guidance
    if checkpoint is not None:
        fit_checks.check_goes_on(model, state, checkpoint)
    return data, model, make_trainer(config, trainer_options, state["global_step"])


def make_trainer(config: DictConfig, options: dict[str, Any], step: int) -> Trainer:
    """Lightning's, for a run that begins at a step."""
    limits = {name: options.pop(name) for name in ("max_steps", "max_time") if name in options}
    stops = Stops(Path(config.run_dir) / "checkpoints", **limits)
    limited = stops.max_steps != -1 or limits.get("max_time") is not None
    if limited and options.get("max_epochs") is None:
        options["max_epochs"] = -1  # as Lightning has it
    loggers = make_loggers(config.loggers, Place(Path(config.run_dir), step))
    plugins = [AtomicCheckpointIO(), *options.pop("plugins", [])]
    # A folder with a config is resumed, for which it has to have the teacher.
    chosen = [
        SaveTeacher(config.run_dir),
        SaveConfig(config),
        *callbacks(config),
        UnfinishedEpoch(),
    ]
    # What averages weights has done so when a stop writes its checkpoint, and puts them in place
    # for the tracker, which comes before it.
    named = make_callbacks(
        config.callbacks, run_dir=config.run_dir, seed=config.seed, task=config.task
    )
    chosen += [*named, stops]
    own_bar = any(isinstance(x, ProgressBar) for x in chosen)
    bar = options.pop("enable_progress_bar", True) is not False and sys.stdout.isatty()
    chosen += [EpochBar()] if bar and not own_bar else []
    options.setdefault("enable_model_summary", False)  # most of its rows are metrics
    with as_input_error(
        "trainer", "options of lightning.Trainer that go together; of a ModelCheckpoint, a monitor"
    ):
        return Trainer(
            default_root_dir=config.run_dir,
            logger=loggers or False,
            callbacks=chosen,
            plugins=plugins,
            enable_progress_bar=bar or own_bar,
            **options,
        )


def callbacks(config: DictConfig) -> list[Callback]:
    folder, task = Path(config.run_dir) / "checkpoints", TASKS[config.task]
    chosen = [
        FiniteSteps(config.run_dir, config.on_nonfinite),
        BackgroundFigures(),
        MetricsTable(config.run_dir),
        EpochCheckpoint(folder, "best", f"val/{task.monitor}", task.mode),
        EpochCheckpoint(folder, "last"),  # after it, so that it knows the best one
    ]
    if config.patience is not None:
        chosen.append(Patience(config.patience, config.task))
    if config.tracker is not None:
        chosen.insert(0, RelevanceTracker(run_dir=config.run_dir, **config.tracker))
    return chosen


def fit(
    config: DictConfig,
    data: DataModule,
    model: Classifier,
    trainer: Trainer,
    checkpoint: Path | None,
) -> str | None:
    """Train; the option that has ended training before its schedule did, if one has."""
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
    reason = reason or endings.early_stop(config, trainer)
    return reason if model.progress() < 1 else None


def test(config: DictConfig, data: DataModule, model: Classifier, trainer: Trainer) -> dict:
    """Metrics of the best checkpoint, also in ``metrics.json``; none where nothing is tested.

    Those of each class of the test split are in ``classes.csv``. A further test set of the data is
    tested as the test split is, and its metrics are named ``test/<name>/...``.
    """
    run_dir = Path(config.run_dir)
    best = run_dir / "checkpoints" / "best.ckpt"
    path = best if best.is_file() else None
    metrics = {}
    for name in (None, *data.test_sets):
        model.begin_test(name)
        of_set = data if name is None else data.of_test_set(name, "test set")
        found = trainer.test(
            model, datamodule=of_set, ckpt_path=path, weights_only=True, verbose=False
        )
        metrics |= found[0] if found else {}
    if trainer.is_global_zero and metrics:  # none with trainer.limit_test_batches=0
        text = json.dumps(metrics, indent=2) + "\n"
        replace_file(run_dir / "metrics.json", lambda file: file.write(text.encode()))
        if model.tested is not None:
            write_classes(model, run_dir / "classes.csv")
    return metrics
