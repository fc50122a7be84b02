"""See why: explain inputs, or score explanation methods, from a checkpoint.

python explain.py --checkpoint runs/vit_digits --input picture.png folder '*.jpg' --target top3
python explain.py --checkpoint runs/bert_reviews --text "I was never bored." --method all
python explain.py --checkpoint runs/entailment --text "A dog runs." --text-pair "It sleeps."
python explain.py --timm deit_small_patch16_224 --input cat.jpg start_layer=1
python explain.py --hf openai/clip-vit-base-patch32 --input cat.jpg --text "a cat"
python explain.py evaluate --checkpoint runs/bert_reviews --protocol rationales
torchrun --nproc-per-node 8 explain.py evaluate ...     (or without evaluate)

Options of the methods are key=value: start_layer, rules, eps, normalize_rows, precision, level,
lm_head.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from configs.schema import check_options, imports_of, load_data_config, read_override
from configs.sections import check_paths
from configs.signatures import about, named, registered
from lightning_modules.utils import cli
from lightning_modules.utils.checkpoint_files import find_checkpoint, run_of
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import NotNegative
from lightning_modules.utils.options import arguments as constructor_arguments
from lightning_modules.utils.terminal import console, quiet, say
from lightning_modules.utils.timm_names import check_published_name

# What takes seconds to import is imported where it is used: help and errors do not wait for it.
if TYPE_CHECKING:
    from relprop.registry import Registry

# Those of torch. A module that is imported may add others, which torch is asked about.
DEVICE = re.compile(r"(auto|cpu|cuda|mps|xpu|hpu|mtia|xla|ipu|meta)(:\d+)?")


def main(argv: list[str] | None = None) -> None:
    """What the user got wrong: one line, exit code 2. Some inputs cannot be read: exit code 1."""
    argv = sys.argv[1:] if argv is None else argv
    evaluating = argv[:1] == ["evaluate"]
    try:
        cli.import_modules(cli.imports_in(argv))  # they may have options of their own
    except errors() as error:
        cli.fail("explain.py", error)
    arguments = parse_evaluate(argv[1:]) if evaluating else parse_explain(argv)
    try:
        cli.import_modules(arguments.imports)
        (check_evaluate if evaluating else check_explain)(arguments)
        with quiet("explain.py"):
            (run_evaluate if evaluating else run_explain)(arguments)
    except errors() as error:
        cli.fail("explain.py", error, imports_of_run(arguments.checkpoint))


def errors() -> tuple[type[Exception], ...]:
    """What is told in one line; where Lightning has been imported, its own is among them."""
    found = [ValueError, TypeError, OSError]
    if "lightning" in sys.modules:
        from lightning.pytorch.utilities.exceptions import MisconfigurationException

        found.append(MisconfigurationException)
    return tuple(found)


def imports_of_run(checkpoint: str | None) -> list[str]:
    """The modules that the run of a checkpoint was started with, as far as can be read."""
    if checkpoint is None:
        return []
    path = Path(checkpoint)
    run_dir = path if path.is_dir() else path.parent.parent
    return imports_of(run_dir / "config.yaml")


def parse_explain(argv: list[str]) -> argparse.Namespace:
    parser = cli.Parser("explain.py", __doc__)
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


# ------------------------------------------------------------------------------------ explain


def run_explain(arguments: argparse.Namespace) -> None:
    """Pictures, a page and numbers in the output folder; the words of texts in the terminal."""
    from lightning_modules.explanations.call import make_call, report
    from lightning_modules.explanations.inputs import find_inputs, given_texts, inputs_of_sources
    from lightning_modules.explanations.many import explain_all
    from lightning_modules.explanations.model import chosen_device, chosen_model
    from lightning_modules.models.beside import take_beside
    from lightning_modules.protocols import torchrun_shard

    module = chosen_model(arguments)
    taken = take_beside(module, arguments.beside)
    module.to(chosen_device(arguments.device))
    of_sources = inputs_of_sources(arguments.overrides, module.sources)
    options = read_options([text for text in arguments.overrides if text not in of_sources])
    call = make_call(arguments, module, options, taken)
    with torchrun_shard() as shard:
        texts = None
        if shard.rank == 0:  # standard input is there once
            texts = given_texts(arguments.text, arguments.text_pair)
        patterns = [*arguments.input, *of_sources]
        inputs = find_inputs(patterns, shard.gather(texts)[0], module.sources)
        done = explain_all(call, inputs, Path(arguments.output), arguments.resume, shard)
    if done is not None:
        report(done, len(inputs))


# ----------------------------------------------------------------------------------- evaluate


def run_evaluate(arguments: argparse.Namespace) -> None:
    """A table in the terminal; the same as CSV, JSON and a picture in the output folder."""
    from lightning_modules.data import DATAMODULES
    from lightning_modules.explanations.model import check_fit, chosen_device, chosen_model
    from lightning_modules.models import class_names
    from lightning_modules.protocols import torchrun_shard
    from lightning_modules.protocols.scoring import score
    from lightning_modules.utils.fingerprint import fingerprint

    module = chosen_model(arguments)
    of_data, of_protocol, of_methods = parted(arguments.overrides)
    options, config = read_options(of_methods), config_of_run(arguments)
    data_options = load_data_config(config, of_data)
    data = DATAMODULES[data_options["kind"]](
        **{name: value for name, value in data_options.items() if name != "kind"}
    )
    if module.earlier_classes:
        data.add_classes(module.earlier_classes)
    data = data.of_test_set(arguments.split, "--split")
    named = arguments.checkpoint is not None or class_names.are_names(module.hparams.class_names)
    check_fit(module, data, named)
    module.to(chosen_device(arguments.device))
    of_protocol = read_protocol_options(arguments.protocol, of_protocol)
    protocol = protocols()[arguments.protocol](module, data, **of_protocol)
    about = {
        "model": arguments.checkpoint or arguments.timm or arguments.hf,
        "weights": fingerprint(module.state_dict()),
        "protocol": protocol.name,
        "data": data_options,
        "methods": protocol.scored(arguments.method, scored(), arguments.compare),
        "options": options,
        "protocol_options": of_protocol,
        "limit": protocol.limit if arguments.limit is None else arguments.limit,
        "split": arguments.split,
    }
    run_dir = Path() if config is None else config.parent
    chosen = [arguments.split] * (arguments.split != "test") + [*map(str, of_protocol.values())]
    folder = Path(arguments.output or run_dir / "scores" / "-".join([protocol.name, *chosen]))
    with torchrun_shard() as shard:
        scores = score(protocol, about, folder, arguments.resume, shard, arguments.compare)
    if scores is not None:
        console().print(scores)
        say(f"{folder}: scores.csv, scores.json, scores.png")


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


if __name__ == "__main__":
    main()
