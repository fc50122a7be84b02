"""Where the files of a pretrained model are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

PACKAGE = "package:"


def locate(name: str) -> str:
    """A hub id or a folder as it is; ``package:NAME/FOLDER`` as that folder of a Python package.

    The package need not be one that can be imported: none of its code is run.

    Raises:
        ValueError: the package is not installed, or has no such folder.
    """
    if not name.startswith(PACKAGE):
        return name
    package, _, inside = name.removeprefix(PACKAGE).partition("/")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    for root in (found and found.submodule_search_locations) or ():
        folder = Path(root, inside)
        if folder.is_dir() and folder.resolve().is_relative_to(Path(root).resolve()):
            return str(folder)
    problem = "has no such folder" if found else "is not installed"
    raise ValueError(
        f"{name}: the package {package} {problem}; accepted: a hub id, a folder, or "
        f"{PACKAGE}NAME/FOLDER of an installed package (pip install {package.replace('_', '-')})"
    )
