"""What the command lines share: their errors, ``--import``, key=value, names of registries."""

from __future__ import annotations

import argparse
import glob
import importlib
import importlib.util
import itertools
import os
import re
import shlex
import sys
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from lightning_modules.utils.errors import InputError, message_of
from lightning_modules.utils.names import one_line
from lightning_modules.utils.terminal import say
from relprop.errors import UnknownName

OVERRIDE = r"[\w.]+=(?s:.*)"


class Parser(argparse.ArgumentParser):
    """A parser of a command, or of one of its parts, whose errors are one line, without usage."""

    def __init__(self, command: str, description: str | None, part: str = "") -> None:
        super().__init__(
            prog=f"{command} {part}".rstrip(),
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.command = command

    def error(self, message: str) -> NoReturn:
        fail(self.command, message)

    def add_import(self) -> None:
        """``--import MODULE``, to be given to :func:`import_modules` as ``arguments.imports``."""
        self.add_argument(
            "--import",
            action="append",
            default=[],
            dest="imports",
            metavar="MODULE",
            help="a module of yours that registers methods, data sets, models, ...; repeatable",
        )


def fail(prog: str, error: object, imports: Sequence[str] = ()) -> NoReturn:
    """Print what was wrong and what is accepted, on one line; exit code 2.

    Args:
        prog: the command, as it is called.
        error: an error, or a message.
        imports: modules that the run's config names; the line says so if one of them may have
            registered the name that is unknown here.
    """
    message = message_of(error)
    if isinstance(error, BaseException) and is_unknown_name(error):
        lacking = [name for name in imports if name not in sys.modules]
        options = " ".join(import_options(lacking)) or "--import MODULE"
        message = f"{one_line(message)}; was it registered by a module? {options}"
    say(f"{prog}: {one_line(message)}", sys.stderr)
    raise SystemExit(2)


def is_unknown_name(error: BaseException | None) -> bool:
    """True if a name that is not registered has caused an error."""
    while error is not None and not isinstance(error, UnknownName):
        error = error.__cause__
    return error is not None


# ------------------------------------------------------------------------------------- --import


def import_modules(names: Sequence[str]) -> None:
    """Import modules, of the current folder too, for what their decorators register.

    Raises:
        InputError: there is no such module; or it raises, and where.
    """
    if names and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in names:
        import_module(name)


def imports_in(argv: Sequence[str]) -> list[str]:
    """The modules that ``--import`` names in arguments which have not been parsed."""
    found = [module for option, module in itertools.pairwise(argv) if option == "--import"]
    return found + [x.partition("=")[2] for x in argv if x.startswith("--import=")]


def import_module(name: str) -> None:
    accepted = "accepted: the name of a module in the current folder, or of an installed one"
    if name.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
        raise InputError(f"--import {name}: no name of a module; {accepted}, without .py")
    try:
        importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and is_within(name, error.name):
            raise InputError(f"--import {name}: no such module; {accepted}") from None
        where = place_of(error, name)
        told = f"--import {name}: {where}: {type(error).__name__}: {error}"
        tail = "" if "accepted:" in told else "; accepted: a module that can be imported"
        raise InputError(told + tail) from None


def is_within(name: str, package: str | None) -> bool:
    """True if a module's dotted name is that of a package, or begins with it."""
    return package is not None and f"{name}.".startswith(f"{package}.")


def place_of(error: BaseException, name: str) -> str:
    """File and line of a module, or of its package, where an error has come from."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{os.path.relpath(error.filename)}, line {error.lineno}"
    spec = importlib.util.find_spec(name.partition(".")[0])
    folders = list(spec.submodule_search_locations or ())
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == spec.origin
        or any(Path(frame.filename).is_relative_to(folder) for folder in folders)
    ]
    return f"{os.path.relpath(frames[-1].filename)}, line {frames[-1].lineno}" if frames else name


def import_options(names: Sequence[str]) -> list[str]:
    """The options that import modules, as they are typed into a shell."""
    return [word for name in names for word in ("--import", shlex.quote(name))]


# ------------------------------------------------------------------------------ names and values


def chosen(
    names: Sequence[str],
    accepted: Collection[str],
    option: str,
    error: type[ValueError] = UnknownName,
) -> list[str]:
    """Those named, each once, or all for ``all``; an ``error`` where one is not accepted."""
    if list(names) == ["all"]:
        return list(accepted)
    for name in names:
        if name not in accepted:
            raise error(f"{option} {name}; accepted: all, {', '.join(accepted)}")
    return list(dict.fromkeys(names))


def check_folder(path: Path, option: str) -> None:
    """An InputError where a folder that is to be written to, or one above it, is a file."""
    for place in (path, *path.parents):
        if os.path.lexists(place):
            if not place.is_dir():
                raise InputError(f"{option} {path}: {place} is a file; accepted: a folder")
            return


def check_inputs(patterns: Sequence[str]) -> None:
    """An InputError where there is nothing at a path, at a glob pattern, or at source=path."""
    for pattern in patterns:
        if not any(map(is_there, (pattern, pattern.partition("=")[2]))):
            raise InputError(
                f"--input {pattern}: nothing is there; accepted: a file, a folder, or a glob "
                "pattern"
            )


def is_there(pattern: str) -> bool:
    """Whether there is something at a path or at a glob pattern."""
    path = os.path.expanduser(pattern)
    return os.path.exists(path) or next(glob.iglob(path, recursive=True), None) is not None


def take_overrides(arguments: argparse.Namespace, patterns: Mapping[str, str]) -> None:
    """Move each key=value into ``overrides`` out of the list before it, which argparse gave it to.

    Args:
        arguments: with the list ``overrides``.
        patterns: of the lists that may have got one, what a key=value looks like there. What is
            also the path of a file is none.
    """
    for name, pattern in patterns.items():
        values = getattr(arguments, name)
        taken = [v for v in values if re.fullmatch(pattern, v) and not Path(v).exists()]
        arguments.overrides += taken
        values[:] = [value for value in values if value not in taken]
