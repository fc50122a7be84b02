"""Fit an experiment from a config, its explanations logged as it learns.

python train.py                                        # configs/vit_digits.yaml
python train.py --config FILE run_dir=runs/mine model.lr=1e-4 trainer.max_epochs=20
python train.py --resume RUN_DIR
python train.py export RUN --to hf FOLDER              # for others to load; see export --help

From Python, as for a sweep: ``train(load_config(FILE, ["model.lr=1e-4"]))``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from configs.schema import complete_config, imports_of, load_config
from configs.sections import check_paths
from configs.signatures import registered
from lightning_modules.utils import cli, run_folder
from lightning_modules.utils.checkpoint_files import find_checkpoint, run_of
from lightning_modules.utils.errors import InputError, message_of
from lightning_modules.utils.new_folder import check_new_folder
from lightning_modules.utils.terminal import quiet, tell, warnings_on_one_line

# Lightning takes seconds to import, and is imported where it is used: help does not wait for it.

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "vit_digits.yaml"
fail = partial(cli.fail, "train.py")


def main(argv: list[str] | None = None) -> None:
    """Train, then test the best checkpoint. What the user got wrong: one line, exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["export"]:
        return run_export(parse_export(argv[1:]))
    arguments = parse(argv)
    try:
        with warnings_on_one_line("train.py"):
            cli.import_modules(arguments.imports)
        config = read_config(arguments)
        if arguments.print_config:
            print(OmegaConf.to_yaml(config), end="")
            return
        checkpoint = checkpoint_of(config, arguments.resume is not None)
        check_paths(config, arguments.resume is not None)
    except (InputError, ValueError, OSError) as error:
        fail(error, imports_of(config_file(arguments)))
    from lightning_modules.callbacks import endings

    with quiet("train.py"):
        try:
            with run_folder.of_trial(config) as config:
                run(config, checkpoint)
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
    config.imports = list(dict.fromkeys([*config.imports, *arguments.imports]))
    return config


def checkpoint_of(config: DictConfig, resume: bool) -> Path | None:
    """The checkpoint to carry on from; None for a run that begins.

    Raises:
        InputError, OSError: there is no run to resume, or it is of another model; or there is one
            where a new one is to be.
    """
    run_dir = Path(config.run_dir)
    if resume:
        run_folder.check_resumed(run_dir)
        begun = load_config(run_dir / "config.yaml", [f"run_dir={run_dir}"])
        run_folder.check_same_model(begun.model, config.model)
        if config.task != begun.task:
            raise InputError(f"task is {config.task}; accepted with --resume: {begun.task}")
    return run_folder.last_checkpoint(run_dir, resume, bool(config.trainer.get("fast_dev_run")))


def run(config: DictConfig, checkpoint: Path | None) -> None:
    """Fit and test an experiment, and say in the terminal how it goes."""
    from lightning_modules.callbacks import endings
    from lightning_modules.callbacks.stops import sigterm_as_ctrl_c
    from lightning_modules.callbacks.terminal import Terminal
    from lightning_modules.experiment import experiment

    try:
        with sigterm_as_ctrl_c():
            ended = experiment(config, checkpoint, Terminal(config))
            endings.print_end(config, ended)
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
    from lightning_modules.experiment import experiment
    from lightning_modules.utils.process_state import as_before

    with as_before():
        try:
            config = complete_config(config)
            checkpoint = checkpoint_of(config, resume)
            check_paths(config, resume)
        except (ValueError, OSError) as error:
            raise InputError(message_of(error)) from error
        with run_folder.of_trial(config) as config:
            ended = experiment(config, checkpoint)
        return {**(endings.best_epoch(ended.trainer, ended.model.task) or {}), **ended.tested}


# -------------------------------------------------------------------------------------- export


def parse_export(argv: list[str]) -> argparse.Namespace:
    formats = ", ".join(registered("lightning_modules.export", "EXPORTS"))
    description = "Write a run's model into a folder that its library loads, with a model card."
    parser = cli.Parser("train.py", description, "export")
    parser.add_argument("run", metavar="RUN", help="its folder, or one of its checkpoints")
    parser.add_argument("folder", metavar="FOLDER", help="to write; a new or an empty one")
    parser.add_argument("--to", metavar="FORMAT", required=True, help=formats)
    parser.add_argument("--push", metavar="ID", help="and upload it to the hub, as USER/NAME")
    parser.add_import()
    return parser.parse_intermixed_args(argv)


def run_export(arguments: argparse.Namespace) -> None:
    """Write the folder, all of it or nothing, and push it. Errors as of :func:`main`."""
    folder, imports = Path(arguments.folder), []
    try:
        with warnings_on_one_line("train.py"):
            cli.import_modules(arguments.imports)
        registered("lightning_modules.export", "EXPORTS").find(arguments.to, f"--to {arguments.to}")
        check_new_folder(folder)
        checkpoint = find_checkpoint(arguments.run, "export")
        run_dir = run_of(checkpoint)
        imports = [] if run_dir is None else imports_of(run_dir / "config.yaml")
        with quiet("train.py"):
            from lightning_modules.callbacks.stops import sigterm_as_ctrl_c
            from lightning_modules.export.command import export
            from lightning_modules.export.push import check_push

            if arguments.push is not None:
                check_push(arguments.push)
            with sigterm_as_ctrl_c():
                export(checkpoint, arguments.to, folder, arguments.push)
    except (InputError, ValueError, OSError) as error:
        fail(error, imports)
    except KeyboardInterrupt:
        tell("train.py: stopped; nothing is written")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
