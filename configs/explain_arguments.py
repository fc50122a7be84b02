"""What explain.py accepts on its command line: read, and checked before anything is imported."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from configs.schema import check_options, load_data_config, read_override
from configs.sections import check_paths
from configs.signatures import about, named, registered
from lightning_modules.utils import cli
from lightning_modules.utils.checkpoint_files import find_checkpoint, run_of
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import NotNegative
from lightning_modules.utils.options import arguments as constructor_arguments
from lightning_modules.utils.timm_names import check_published_name

if TYPE_CHECKING:
    from relprop.registry import Registry

# Those of torch. A module that is imported may add others, which torch is asked about.
DEVICE = re.compile(r"(auto|cpu|cuda|mps|xpu|hpu|mtia|xla|ipu|meta)(:\d+)?")


def parse_explain(argv: list[str], description: str | None) -> argparse.Namespace:
    parser = cli.Parser("explain.py", description)
    add_shared(parser)
    parser.add_argument(
        "--input", nargs="+", default=[], metavar="PATH", help="files, folders, glob patterns"
    )
    parser.add_argument(
        "--text", nargs="+", default=[], metavar="TEXT", help="texts; -: a text a line of stdin"
    )
    parser.add_argument(
        "--text-pair",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="second texts of pairs; -: in the lines of stdin, behind a tab",
    )
    parser.add_argument(
        "--target",
        nargs="+",
        default=["predicted"],
        metavar="CLASS",
        help="names, indices, predicted (default), present, top3, all",
    )
    parser.add_argument(
        "--against", metavar="CLASS", help="a name or index: why --target rather than it"
    )
    names = f"all, {', '.join(methods())}"
    parser.add_argument(
        "--method", nargs="+", default=["transformer_attribution"], metavar="NAME", help=names
    )
    parser.add_argument("--output", default="explanations", metavar="DIR", help="explanations")
    parser.add_argument(
        "--format", default="png,html", metavar="LIST", help=f"of {','.join(formats())} (png,html)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of methods")
    for name in beside():
        option, dest = f"--{name.replace('_', '-')}", f"beside {name}"
        parser.add_argument(option, dest=dest, metavar="PATH", help=about(beside(), name))
    arguments = parser.parse_intermixed_args(argv)
    given = {name: getattr(arguments, f"beside {name}") for name in beside()}
    arguments.beside = {name: value for name, value in given.items() if value is not None}
    # A text may begin with anything else.
    of_text = rf"({'|'.join(get_type_hints(options_of_methods()))})=\S*"
    patterns = dict.fromkeys(("input", "target", "method"), cli.OVERRIDE) | {
        "text": of_text,
        "text_pair": of_text,
    }
    cli.take_overrides(arguments, patterns)
    return arguments


def add_shared(parser: cli.Parser) -> None:
    """The options that both commands have."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--checkpoint", metavar="RUN_DIR_OR_FILE", help="a classifier of train.py")
    model.add_argument("--timm", metavar="NAME[@WEIGHTS]", help="timm's, from the hub or a file")
    model.add_argument("--hf", metavar="ID_OR_FOLDER", help="a model of Hugging Face")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--resume", action="store_true", help="go on with one that was cut off")
    parser.add_import()


def parse_evaluate(argv: list[str]) -> argparse.Namespace:
    description = "Score methods on a test set of a run's data."
    parser = cli.Parser("explain.py", description, "evaluate")
    add_shared(parser)
    parser.add_argument("--protocol", metavar="NAME", required=True, help=", ".join(protocols()))
    names = f"all, {', '.join(scored())}"
    parser.add_argument("--method", nargs="+", metavar="NAME", default=["all"], help=names)
    parser.add_argument(
        "--compare",
        metavar="METHOD",
        help="whose scores the others' are compared with: transformer_attribution, or the first",
    )
    parser.add_argument(
        "--split", default="test", metavar="NAME", help="test (default), or a further test set"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N samples")
    parser.add_argument("--output", metavar="DIR", help="default: the run's scores/PROTOCOL")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="data.* of the run; protocol.*; options of methods",
    )
    arguments = parser.parse_intermixed_args(argv)
    cli.take_overrides(arguments, {"method": cli.OVERRIDE})
    return arguments


# ------------------------------------------------------------------- what the arguments accept


def methods() -> Registry:
    return registered("relprop.methods", "METHODS", "method")


def options_of_methods() -> type:
    return named("relprop.methods", "Options")


def beside() -> Registry:
    """Options for what models take beside inputs."""
    return registered("lightning_modules.models", "BESIDE")


def formats() -> Sequence[str]:
    return named("lightning_modules.explanations.files", "FORMATS")


def protocols() -> Registry:
    return registered("lightning_modules.protocols", "PROTOCOLS")


def scored() -> list[str]:
    """Names of the methods and baselines that can be scored; errors as of ``scored_methods``."""
    if "relprop.methods" in sys.modules:
        from lightning_modules.protocols import scored_methods

        return list(scored_methods())
    return [*methods(), *registered("lightning_modules.protocols", "BASELINES", "baseline")]


def check_explain(arguments: argparse.Namespace) -> None:
    """What can be told before anything is imported; ``format`` and ``method`` become lists."""
    arguments.format = cli.chosen(arguments.format.split(","), formats(), "--format", InputError)
    arguments.method = cli.chosen(arguments.method, methods(), "--method")
    cli.check_folder(Path(arguments.output), "--output")
    known = get_type_hints(options_of_methods())  # others may be inputs of the model's
    of_methods = arguments.overrides
    if arguments.timm is None:
        of_methods = [text for text in of_methods if text.partition("=")[0] in known]
    read_options(of_methods)
    check_model(arguments)
    of_sources = [text for text in arguments.overrides if text not in of_methods]
    if not (arguments.input or arguments.text or arguments.text_pair or of_sources):
        raise InputError("no input; accepted: --input PATH... or --text TEXT...")
    cli.check_inputs(arguments.input)
    for name, path in arguments.beside.items():
        if not Path(path).expanduser().exists():
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} {path}: nothing is there; accepted: a file or a folder")


def check_evaluate(arguments: argparse.Namespace) -> None:
    """What can be told before anything is imported; ``method`` becomes a list without ``all``."""
    arguments.method = cli.chosen(arguments.method, scored(), "--method")
    if arguments.compare not in (None, *arguments.method):
        raise InputError(
            f"--compare {arguments.compare}: it is not scored; accepted: a method of --method, "
            f"{', '.join(arguments.method)}"
        )
    protocols().find(arguments.protocol, f"--protocol {arguments.protocol}")
    if arguments.output is not None:
        cli.check_folder(Path(arguments.output), "--output")
    if arguments.limit is not None and arguments.limit < 1:
        raise InputError(f"--limit {arguments.limit}; accepted: 1 or more samples")
    check_model(arguments)
    of_data, of_protocol, of_methods = parted(arguments.overrides)
    read_options(of_methods)
    read_protocol_options(arguments.protocol, of_protocol)
    config = config_of_run(arguments)
    is_run = config is not None and config.is_file()
    if is_run or arguments.checkpoint is None:  # else it is told what is wrong with the checkpoint
        check_paths({"data": load_data_config(config, of_data)}, resumed=True)


def check_model(arguments: argparse.Namespace) -> None:
    """A checkpoint, a file or a folder must be there, and a name of timm's be one."""
    if arguments.checkpoint is not None:
        find_checkpoint(arguments.checkpoint)
    if arguments.timm is not None:
        name, at, weights = arguments.timm.partition("@")
        check_published_name(name)
        if at and not Path(weights).is_file():
            raise InputError(
                f"--timm {arguments.timm}: no such file; accepted: NAME@FILE with a file of weights"
            )
    is_path = arguments.hf is not None and arguments.hf.startswith(("/", "./", "../"))
    if is_path and not Path(arguments.hf).is_dir():
        raise InputError(f"--hf {arguments.hf}: no such folder; accepted: a hub id, or a folder")
    if "torch" not in sys.modules and not DEVICE.fullmatch(arguments.device):
        raise InputError(f"--device {arguments.device}; accepted: auto, cpu, cuda, cuda:1, mps")


def config_of_run(arguments: argparse.Namespace) -> Path | None:
    """The config of the run that the checkpoint is of, if there is one."""
    run_dir = run_of(find_checkpoint(arguments.checkpoint)) if arguments.checkpoint else None
    return None if run_dir is None else run_dir / "config.yaml"


def parted(overrides: list[str]) -> tuple[list[str], list[str], list[str]]:
    """The overrides of the data, those of the protocol, and those that are options of methods."""
    of_data = [text for text in overrides if text.startswith("data.")]
    of_protocol = [text for text in overrides if text.startswith("protocol.")]
    return of_data, of_protocol, [x for x in overrides if x not in (*of_data, *of_protocol)]


def read_protocol_options(name: str, overrides: list[str]) -> dict[str, Any]:
    """Options of a protocol, the arguments of its constructor, from protocol.key=value each."""
    options = {}
    for override in overrides:
        options |= read_override(override)["protocol"]
    taken = {
        option: argument.annotation
        for option, argument in constructor_arguments(protocols()[name]).items()
        if option not in ("module", "data")
    }
    check_options("protocol", options, taken)
    return options


def read_options(overrides: list[str]) -> dict[str, Any]:
    """Options of the methods, as of :class:`relprop.Options`, from key=value each."""
    options = {}
    for override in overrides:
        options |= read_override(override)
    types = get_type_hints(options_of_methods())
    rules = Literal[tuple(named("relprop.rules.sets", "RULE_SETS"))] | None
    check_options("", options, types | {"eps": NotNegative, "rules": rules})
    return options
