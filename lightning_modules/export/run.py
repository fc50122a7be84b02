"""What a run's folder knows of the classifier in its checkpoint."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lightning_modules.utils.checkpoint_files import find_checkpoint, run_of
from lightning_modules.utils.errors import as_input_error

SHOWN = ("task", "seed", "data", "model")  # sections of the config in the card
# An absolute path within a text: of a file: URL, of a home folder, of Windows, of POSIX (and not
# what follows the name and host of another URL).
PATH = re.compile(r"(?<![\w/.~\\-])(?:file:/+|~[\w.-]*/|[A-Za-z]:[\\/]|/(?!/))[^\s,;:'\"]+")


@dataclass(frozen=True)
class Run:
    """What a run's folder holds.

    Attributes:
        name: of the folder.
        options: its sections ``SHOWN``, without paths of the machine.
        metrics: of the test of this checkpoint; none for one that was not tested.
        classes: the rows of ``classes.csv``, of the same test.
        pictures: the explanations of the last epoch.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    classes: list[dict[str, str]] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)


def read_run(checkpoint: Path) -> Run:
    """The run that a checkpoint is of; only a name where its folder is not there.

    Raises:
        InputError: one of the files in it is broken.
    """
    folder = run_of(checkpoint)
    if folder is None:
        return Run(checkpoint.stem)
    with as_input_error(f"{folder}: a file of the run cannot be read", "those of train.py"):
        config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=True)
        options = {x: without_paths(config[x]) for x in SHOWN if x in config}
        tested = find_checkpoint(folder).resolve() == checkpoint.resolve()
        metrics, classes = folder / "metrics.json", folder / "classes.csv"
        return Run(
            folder.resolve().name,
            options,
            json.loads(metrics.read_text()) if tested and metrics.is_file() else {},
            rows_of(classes) if tested and classes.is_file() else [],
            last_pictures(folder / "explanations"),
        )


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def last_pictures(folder: Path) -> list[Path]:
    """The pictures of the last epoch that has any."""
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("*epoch=*.png")):
        if epoch := re.search(r"epoch=(\d+)\.png$", path.name):
            found.setdefault(int(epoch[1]), []).append(path)
    return found[max(found)] if found else []


def without_paths(value: Any) -> Any:
    """Plain values with the last part of each absolute path in their texts."""
    if isinstance(value, dict):
        return {without_paths(name): without_paths(x) for name, x in value.items()}
    if isinstance(value, list):
        return [without_paths(x) for x in value]
    if not isinstance(value, str):
        return value
    if re.match(r"(?:/|~|[A-Za-z]:[\\/])", value):  # the whole of it, whatever signs it has
        return last_part(value)
    return PATH.sub(lambda found: last_part(found[0]), value)


def last_part(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
