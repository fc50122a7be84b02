"""See why: explain inputs, or score explanation methods, from a checkpoint.

python explain.py --checkpoint runs/vit_digits --input picture.png folder '*.jpg' --target top3
python explain.py --checkpoint runs/bert_reviews --text "I was never bored." --method all
python explain.py --timm deit_small_patch16_224 --input cat.jpg start_layer=1
python explain.py evaluate --checkpoint runs/bert_reviews --protocol rationales
torchrun --nproc-per-node 8 explain.py evaluate ...

Options of the methods are key=value: start_layer, rules, eps, normalize_rows, precision.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console

import relprop
from configs.schema import check_options, load_data_config, read_override
from lightning_modules.data import DATAMODULES, DataModule
from lightning_modules.explanations.batches import Failure, explain_inputs
from lightning_modules.explanations.files import FORMATS, write_all, write_png
from lightning_modules.explanations.inputs import find_inputs
from lightning_modules.explanations.results import Result
from lightning_modules.explanations.targets import Targets
from lightning_modules.models import class_names
from lightning_modules.models.checkpoint_files import find_checkpoint, run_of
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.models.classifier import Classifier
from lightning_modules.models.fit_checks import check_inputs
from lightning_modules.models.published import hf_classifier, timm_classifier
from lightning_modules.protocols import PROTOCOLS, scored_methods, torchrun_shard
from lightning_modules.protocols.scoring import fingerprint, progress_bar, score
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.names import one_line

ERRORS = (ValueError, TypeError, OSError, InputError, relprop.UnsupportedModel)
BATCH_SIZE = 8


def main(argv: list[str] | None = None) -> None:
    """What the user got wrong: one line, exit code 2. An input that cannot be read: exit code 1."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv[:1] == ["evaluate"]:
            run_evaluate(parse_evaluate(argv[1:]))
        else:
            run_explain(parse_explain(argv))
    except (*ERRORS, MisconfigurationException) as error:
        fail(error)


def fail(error: object) -> None:
    """What was wrong and what is accepted, on one line; exit code 2."""
    print(f"explain.py: {one_line(error)}", file=sys.stderr)
    raise SystemExit(2)


def new_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.error = fail  # one line, without the usage
    return parser


def parse_explain(argv: list[str]) -> argparse.Namespace:
    parser = new_parser("explain.py", __doc__)
    add_model(parser)
    parser.add_argument(
        "--input", nargs="+", default=[], metavar="PATH", help="files, folders, glob patterns"
    )
    parser.add_argument(
        "--text", nargs="+", default=[], metavar="TEXT", help="texts; -: a text a line of stdin"
    )
    parser.add_argument(
        "--target",
        nargs="+",
        default=["predicted"],
        metavar="CLASS",
        help="names, indices, predicted (default), top3, all",
    )
    names = f"all, {', '.join(relprop.METHODS)}"
    parser.add_argument(
        "--method", nargs="+", default=["transformer_attribution"], metavar="NAME", help=names
    )
    parser.add_argument("--output", default="explanations", metavar="DIR", help="explanations")
    parser.add_argument(
        "--format", default="png,html", metavar="LIST", help=f"of {','.join(FORMATS)} (png,html)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of methods")
    return split_overrides(parser.parse_intermixed_args(argv))


def add_model(parser: argparse.ArgumentParser) -> None:
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--checkpoint", metavar="RUN_DIR_OR_FILE", help="a classifier of train.py")
    model.add_argument("--timm", metavar="NAME[@WEIGHTS]", help="timm's, from the hub or a file")
    model.add_argument("--hf", metavar="ID_OR_FOLDER", help="Hugging Face's text classifier")


def parse_evaluate(argv: list[str]) -> argparse.Namespace:
    parser = new_parser("explain.py evaluate", "Score methods on the test split of a run's data.")
    add_model(parser)
    parser.add_argument("--protocol", choices=PROTOCOLS, required=True)
    names = f"all, {', '.join(scored_methods())}"
    parser.add_argument("--method", nargs="+", metavar="NAME", default=["all"], help=names)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N samples")
    parser.add_argument("--output", metavar="DIR", help="default: the run's scores/PROTOCOL")
    parser.add_argument("--resume", action="store_true", help="go on with one that was cut off")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="data.* of the run; options of methods"
    )
    return split_overrides(parser.parse_intermixed_args(argv))


def split_overrides(arguments: argparse.Namespace) -> argparse.Namespace:
    """Takes each key=value out of the list before it, which argparse has added it to."""
    options = "|".join(field.name for field in dataclasses.fields(relprop.Options))
    for name in ("input", "target", "method", "text"):
        values = getattr(arguments, name, [])
        # A text may begin with anything else.
        override = rf"({options})=\S*" if name == "text" else r"[\w.]+=(?s:.*)"
        taken = [v for v in values if re.fullmatch(override, v) and not Path(v).exists()]
        arguments.overrides += taken
        values[:] = [value for value in values if value not in taken]
    return arguments


# ------------------------------------------------------------------------------------ explain


def run_explain(arguments: argparse.Namespace) -> None:
    """Pictures, a page and numbers in the output folder; the words of texts in the terminal."""
    formats = chosen(arguments.format.split(","), FORMATS, "--format")
    methods = chosen(arguments.method, list(relprop.METHODS), "--method")
    options = read_options(arguments.overrides)
    module = chosen_model(arguments).to(chosen_device(arguments.device))
    targets = Targets(arguments.target, module.hparams.class_names, module.activation is not None)
    inputs = find_inputs(arguments.input, given_texts(arguments.text), module.sources)
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)

    results, failures = [], []
    with progress_bar() as bar:
        for outcome in bar.track(
            explain_inputs(module, inputs, targets, methods, options, BATCH_SIZE),
            total=len(inputs),
            description="explaining",
        ):
            if isinstance(outcome, Failure):
                failures.append(outcome)
                continue
            if "png" in formats:
                write_png(outcome, folder)
            results.append(outcome.small())
            show(outcome, bar.console)
    about = {
        "title": f"Why? {Path(arguments.checkpoint or arguments.timm or arguments.hf).name}",
        "model": arguments.checkpoint or arguments.timm or arguments.hf,
        "options": options,
    }
    written = write_all(results, formats, about, folder) if results else []
    where = one_line(", ".join(map(str, written or [folder])))
    print(f"{len(results)} of {len(inputs)} explained: {where}")
    for failure in failures:
        print(f"explain.py: {one_line(failure.reason)}", file=sys.stderr)
    if failures:
        raise SystemExit(1)


def show(result: Result, console: Console) -> None:
    """What a terminal can: the coloured words of a text; of a picture, what it is taken for."""
    if not sys.stdout.isatty():
        print(result.heading)
        return
    texts = [part.terminal_text(result) for part in result.parts.values()]
    if not any(texts):
        console.print(result.heading, markup=False, highlight=False)
    for text in filter(None, texts):
        console.print(text)


def chosen_model(arguments: argparse.Namespace) -> Classifier:
    if arguments.timm is not None:
        return timm_classifier(arguments.timm)
    if arguments.hf is not None:
        return hf_classifier(arguments.hf)
    return load_classifier(find_checkpoint(arguments.checkpoint))


def chosen_device(name: str) -> torch.device:
    """``auto`` is an accelerator if there is one; of several, one for each process of torchrun."""
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return (
            torch.device(found.type, int(os.environ.get("LOCAL_RANK", 0)))
            if found
            else torch.device("cpu")
        )
    try:
        there = torch.empty(0, device=name)
        there.cpu()  # what is on "meta" cannot be had
        return there.device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: {reason}; accepted: auto, cpu, cuda, mps") from None


def given_texts(texts: list[str]) -> list[str]:
    """Those of the command line; for ``-`` one a line of standard input."""
    if "-" not in texts:
        return texts
    lines = [line.rstrip("\n") for line in sys.stdin if line.strip()]
    return [t for text in texts for t in (lines if text == "-" else [text])]


def chosen(names: list[str], accepted: Sequence[str], option: str) -> list[str]:
    """Those named, each once, or all."""
    if names == ["all"]:
        return list(accepted)
    for name in names:
        if name not in accepted:
            raise InputError(f"{option} {name}; accepted: all, {', '.join(accepted)}")
    return list(dict.fromkeys(names))


# ----------------------------------------------------------------------------------- evaluate


def run_evaluate(arguments: argparse.Namespace) -> None:
    """A table in the terminal; the same as CSV, JSON and a picture in the output folder."""
    methods = chosen(arguments.method, list(scored_methods()), "--method")
    if arguments.limit is not None and arguments.limit < 1:
        raise InputError(f"--limit {arguments.limit}; accepted: 1 or more samples")
    module = chosen_model(arguments)
    run_dir = run_of(find_checkpoint(arguments.checkpoint)) if arguments.checkpoint else None
    of_data = [text for text in arguments.overrides if text.startswith("data.")]
    options = read_options([text for text in arguments.overrides if text not in of_data])
    data_options = load_data_config(run_dir and run_dir / "config.yaml", of_data)
    data = DATAMODULES[data_options["kind"]](
        **{name: value for name, value in data_options.items() if name != "kind"}
    )
    named = arguments.checkpoint is not None or class_names.are_names(module.hparams.class_names)
    check_fit(module, data, named)
    module.to(chosen_device(arguments.device))
    protocol = PROTOCOLS[arguments.protocol](module, data)
    about = {
        "model": arguments.checkpoint or arguments.timm or arguments.hf,
        "weights": fingerprint(module),
        "protocol": protocol.name,
        "data": data_options,
        "methods": methods,
        "options": options,
        "limit": arguments.limit,
    }
    folder = Path(arguments.output or (run_dir or Path()) / "scores" / protocol.name)
    with torchrun_shard() as shard:
        scores = score(protocol, about, folder, arguments.resume, shard)
    if scores is not None:
        Console(width=None if sys.stdout.isatty() else 120).print(scores)
        print(f"{one_line(folder)}: scores.csv, scores.json, scores.png")


def check_fit(module: Classifier, data: DataModule, named: bool) -> None:
    """Whether the data bring the classes and inputs that the model was trained on.

    Where the model's classes are not ``named`` (weights of timm's or Hugging Face's without names),
    the data's names are taken in their order, which is told.
    """
    if module.activation != "softmax":
        raise InputError(
            "the model gives labels that go together, or numbers, and the protocols score "
            "decisions for one class; accepted: a classifier of classes that exclude each other"
        )
    ours, theirs = module.hparams.class_names, data.class_names
    if not class_names.are_same(ours, theirs):
        if named or len(ours) != len(theirs):
            raise InputError(
                f"the data's classes are not the model's: {class_names.difference(theirs, ours)}; "
                "accepted: data of the model's classes, in their order"
            )
        listed = ", ".join(theirs[:5]) + ", ..." * (len(theirs) > 5)
        text = f"the model does not name its classes; the data's are taken in their order: {listed}"
        print(f"explain.py: {one_line(text)}", file=sys.stderr)
    check_inputs(data.input_config, module.hparams.input_config, "accepted: the model's")


def read_options(overrides: list[str]) -> dict[str, Any]:
    """Options of the methods, as of :class:`relprop.Options`, from key=value each."""
    options = {}
    for override in overrides:
        options |= read_override(override)
    check_options("", options, get_type_hints(relprop.Options))
    return options


if __name__ == "__main__":
    main()
