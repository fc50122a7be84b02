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
import sys
from pathlib import Path

from configs.explain_arguments import (
    check_evaluate,
    check_explain,
    config_of_run,
    parse_evaluate,
    parse_explain,
    parted,
    protocols,
    read_options,
    read_protocol_options,
    scored,
)
from configs.schema import imports_of, load_data_config
from lightning_modules.utils import cli
from lightning_modules.utils.terminal import console, quiet, say, warnings_on_one_line

# What takes seconds to import is imported where it is used: help and errors do not wait for it.


def main(argv: list[str] | None = None) -> None:
    """What the user got wrong: one line, exit code 2. Some inputs cannot be read: exit code 1."""
    argv = sys.argv[1:] if argv is None else argv
    evaluating = argv[:1] == ["evaluate"]
    try:
        with warnings_on_one_line("explain.py"):  # modules may have options of their own
            cli.import_modules(cli.imports_in(argv))
    except errors() as error:
        cli.fail("explain.py", error)
    arguments = parse_evaluate(argv[1:]) if evaluating else parse_explain(argv, __doc__)
    try:
        with warnings_on_one_line("explain.py"):
            cli.import_modules(arguments.imports)  # of an option that was shortened, too
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


if __name__ == "__main__":
    main()
