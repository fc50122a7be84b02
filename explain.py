"""Score explanation methods on a trained classifier.

python explain.py evaluate --checkpoint runs/bert_reviews --protocol rationales
python explain.py evaluate --checkpoint RUN_DIR --protocol rationales --method lrp start_layer=5
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, get_type_hints

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

import relprop
from configs.schema import check_options, load_config, read_override
from lightning_modules import render_scores
from lightning_modules.checkpoints import find_checkpoint, load_classifier, run_of
from lightning_modules.data import DATAMODULES
from lightning_modules.errors import InputError
from lightning_modules.protocols import METHODS, PROTOCOLS, evaluate

ERRORS = (ValueError, TypeError, OSError, InputError, relprop.UnsupportedModel)


def main(argv: list[str] | None = None) -> None:
    """What the user got wrong: one line, exit code 2."""
    arguments = parse(argv)
    try:
        run_evaluate(arguments)
    except (*ERRORS, MisconfigurationException) as error:
        fail(error)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="explain.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.error = fail  # one line, without the usage
    commands = parser.add_subparsers(dest="command", required=True)
    scoring = commands.add_parser("evaluate", help="score methods on the test split")
    scoring.error = fail
    scoring.add_argument("--checkpoint", metavar="RUN_DIR_OR_FILE", required=True)
    scoring.add_argument("--protocol", choices=PROTOCOLS, required=True)
    scoring.add_argument(
        "--method", nargs="+", metavar="NAME", default=["all"], help=f"all, {', '.join(METHODS)}"
    )
    scoring.add_argument("--limit", type=int, metavar="N", help="only the first N samples")
    scoring.add_argument("--output", metavar="DIR", help="default: the run's scores/PROTOCOL")
    scoring.add_argument(
        "overrides", nargs="*", metavar="key=value", help="data.* of the run; options of methods"
    )
    return parser.parse_args(argv)


def fail(error: object) -> None:
    """What was wrong and what is accepted, on one line; exit code 2."""
    print("explain.py: " + " ".join(str(error).split()), file=sys.stderr)
    raise SystemExit(2)


def run_evaluate(arguments: argparse.Namespace) -> None:
    """A table in the terminal; the same as CSV, JSON and curves in the output folder."""
    overrides = [*arguments.overrides, *(m for m in arguments.method if "=" in m)]
    methods = chosen_methods([m for m in arguments.method if "=" not in m])
    if arguments.limit is not None and arguments.limit < 1:
        raise InputError(f"--limit {arguments.limit}; accepted: 1 or more samples")
    checkpoint = find_checkpoint(arguments.checkpoint)
    module = load_classifier(checkpoint)
    run_dir = run_of(checkpoint)
    if run_dir is None:
        raise InputError(f"{checkpoint}: its run's config.yaml, which names the data, is gone")
    of_data = [override for override in overrides if override.startswith("data.")]
    options = read_options([override for override in overrides if override not in of_data])
    config = load_config(run_dir / "config.yaml", of_data)
    data_options = OmegaConf.to_container(config.data)
    data = DATAMODULES[data_options.pop("kind")](**data_options)
    module.to("cuda" if torch.cuda.is_available() else "cpu")

    protocol = PROTOCOLS[arguments.protocol]()
    output = Path(arguments.output or run_dir / "scores" / protocol.name)
    output.mkdir(parents=True, exist_ok=True)
    console = Console()
    with progress_bar() as bar:
        task = bar.add_task(protocol.name, total=None)
        metrics = {}
        for done, total, metrics in evaluate(  # noqa: B007
            protocol, module, data, methods, options, arguments.limit
        ):
            bar.update(task, completed=done, total=total)
    scores = [score for method in methods for score in protocol.scores(method, metrics[method])]
    about = {
        "checkpoint": str(checkpoint),
        "protocol": protocol.name,
        "data": OmegaConf.to_container(config.data),
        "samples": total,
        "options": options,
    }
    title = f"{protocol.y_label}: {config.data.kind}, {total} test samples"
    render_scores.write_csv(scores, output / "scores.csv")
    render_scores.write_json(scores, about, output / "scores.json")
    render_scores.curves(protocol, scores, title, output / "curves.png")
    console.print(render_scores.table(protocol, scores, title))
    console.print(f"{output}: scores.csv, scores.json, curves.png")


def chosen_methods(names: list[str]) -> list[str]:
    """Those named, or all."""
    if names == ["all"]:
        return list(METHODS)
    for name in names:
        if name not in METHODS:
            raise InputError(f"--method {name}; accepted: all, {', '.join(METHODS)}")
    return list(dict.fromkeys(names))


def read_options(overrides: list[str]) -> dict[str, Any]:
    """Options of the methods, as of :class:`relprop.Options`, from key=value each."""
    options = {}
    for override in overrides:
        options |= read_override(override)
    check_options("", options, get_type_hints(relprop.Options))
    return options


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


if __name__ == "__main__":
    main()
