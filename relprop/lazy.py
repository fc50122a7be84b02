"""Packages whose names are imported when one of them is first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


def names_of(package: str, module: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package that has a module's public names (PEP 562).

    The import of torch and of what is built on it takes seconds. Who uses a part of the package
    that does without, such as its errors, does not wait for it.

    Args:
        package: the package's name.
        module: the module's name. What its ``__all__`` names becomes the package's.
    """

    def load() -> dict[str, Any]:
        public, there = importlib.import_module(module), vars(sys.modules[package])
        names = getattr(public, "__all__", ())  # none while it is being imported
        for name in ("__all__", *names) if names else ():
            there.setdefault(name, getattr(public, name))
        return there

    def get(name: str) -> Any:
        there = load()
        if name not in there:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return there[name]

    return get, lambda: sorted(load())
