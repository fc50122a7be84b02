"""Packages that only some options need."""

from __future__ import annotations

import importlib
from types import ModuleType

from lightning_modules.utils.errors import InputError


def extra(package: str, name: str, option: str) -> ModuleType:
    """An optional package, imported.

    Args:
        package: its name.
        name: of the extra in setup.cfg that installs it.
        option: what needs it, for errors.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{option} needs {error.name}, which is not installed; accepted: "
            f"pip install 'relprop[{name}]' or pip install {package.partition('.')[0]}"
        ) from error
