"""What is asked of all inputs of a call, and what has come of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_modules.explanations.targets import Targets, one_class
from lightning_modules.models.classifier import Classifier
from lightning_modules.utils.names import visible
from lightning_modules.utils.terminal import say

ASKED = ("target", "against", "method", "format")  # options that a call goes on with


@dataclass(frozen=True)
class Call:
    """What is asked about each input, and what is written.

    Attributes:
        methods: those wanted; of several, those that refuse the model are left out.
        against: a class that those explained are compared with.
        formats: of :data:`FORMATS`.
        asked: the options as they were given, which must be the same where the call goes on.
        about: what explanations.json says of the call.
    """

    module: Classifier
    targets: Targets
    methods: Sequence[str]
    options: Mapping[str, Any]
    against: int | None
    formats: Sequence[str]
    asked: dict[str, Any]
    about: dict[str, Any]


@dataclass(frozen=True)
class Done:
    """What a call has come to: why inputs failed and methods are left out, and the files."""

    explained: int
    failures: list[str]
    left_out: dict[str, str]
    written: list[Path]


def make_call(
    arguments: argparse.Namespace,
    module: Classifier,
    options: Mapping[str, Any],
    beside: Mapping[str, str],
) -> Call:
    """What the arguments of explain.py ask about a model.

    Args:
        options: of the methods.
        beside: what was given beside the inputs, as of :func:`.beside.take_beside`.
    """
    targets = Targets(arguments.target, module.task)
    names, against = module.hparams.class_names, arguments.against
    against = None if against is None else one_class(against, names, "--against")
    than = "" if against is None else f" rather than {visible(names[against])}"
    model = arguments.checkpoint or arguments.timm or arguments.hf
    about = {"title": f"Why{than}? {Path(model).name}", "model": model, "options": options}
    if against is not None:
        about["against"] = names[against]
    asked = {name: getattr(arguments, name) for name in ASKED} | {"options": options, **beside}
    wanted = (arguments.method, options, against, arguments.format, asked, about)
    return Call(module, targets, *wanted)


def report(done: Done, inputs: int) -> None:
    """Say what has come of the inputs.

    Raises:
        SystemExit: with 1 where some could not be explained, 2 where none.
    """
    told = f"{done.explained} of {inputs} explained"
    say(f"{told}: {', '.join(map(str, done.written))}" if done.explained else told)
    for reason in done.left_out.values():
        say(f"explain.py: left out: {reason}", sys.stderr)
    for reason in done.failures:
        say(f"explain.py: {reason}", sys.stderr)
    if done.failures:
        raise SystemExit(1 if done.explained else 2)
