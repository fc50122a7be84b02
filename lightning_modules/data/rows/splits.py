"""The splits of a data set of the ``datasets`` library, wherever it is."""

from __future__ import annotations

import glob
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from lightning_modules.utils.errors import InputError, as_input_error
from lightning_modules.utils.extras import extra
from lightning_modules.utils.terminal import is_first_process

if TYPE_CHECKING:
    from datasets import Dataset

ACCEPTED = (
    "a folder that save_to_disk has written, a .parquet file or a folder or pattern of them, or "
    "the id of a data set on the Hugging Face hub"
)
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
VALIDATION = ("validation", "val", "valid", "dev")  # as people call it


@dataclass(frozen=True)
class Split:
    """A split: its rows, and what errors call it."""

    rows: Dataset
    where: str


def load_splits(path: str, name: str | None) -> dict[str, Dataset]:
    """The splits by name, mapped into memory; a data set without splits is "train".

    Args:
        path: a folder, a file, a glob pattern or a hub id.
        name: the configuration of a data set that has several.

    Raises:
        InputError: it is none of these, or cannot be read; or ``datasets`` is not installed.
    """
    datasets = extra("datasets", "hf", "data.kind=hf")
    place = Path(path).expanduser()
    is_hub_id = HUB_ID.fullmatch(path) and not path.endswith(".parquet")
    matches = not place.exists() and glob.glob(str(place), recursive=True)
    if not (place.exists() or matches or is_hub_id):
        raise FileNotFoundError(f"data.path {path}: no such file or folder; accepted: {ACCEPTED}")
    with as_input_error(f"data.path {path}", ACCEPTED), _quiet(datasets):
        if any((place / file).is_file() for file in ("dataset_dict.json", "state.json")):
            found = datasets.load_from_disk(str(place))
        elif place.is_file() or matches:
            found = datasets.load_dataset("parquet", name, data_files={"train": str(place)})
        else:
            found = datasets.load_dataset(str(place) if place.exists() else path, name)
    splits = dict(found) if isinstance(found, Mapping) else {"train": found}
    return {split: dataset.with_format(None) for split, dataset in splits.items()}


@contextmanager
def _quiet(datasets: ModuleType) -> Iterator[None]:
    """Without what ``datasets`` logs, and without its progress where no person sees it."""
    level = datasets.logging.get_verbosity()
    hide = not (sys.stderr.isatty() and is_first_process())
    hide = hide and not datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(logging.CRITICAL)  # an error says what it logs
    if hide:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if hide:
            datasets.enable_progress_bars()


def choose_splits(
    path: str, splits: Mapping[str, Dataset], given: Mapping[str, str | None]
) -> dict[str, Split]:
    """Those of train, val and test that the data have.

    Args:
        path: of the data, for errors.
        splits: by name.
        given: the options ``train``, ``val`` and ``test``; null: "validation" (or another of its
            names) and "test".

    Raises:
        InputError: a split is not there, or that of train is another's, too.
    """
    usual = {"val": VALIDATION, "test": ("test",)}
    names = {}
    for option, name in given.items():
        found = [x for x in usual[option] if x in splits] if name is None else [name]
        if found and found[0] not in splits:
            raise InputError(
                f"data.{option}: {path} has no split {found[0]!r}; accepted: {', '.join(splits)}"
            )
        names |= {option: found[0]} if found else {}
    for option in ("val", "test"):
        if names.get(option) == names["train"]:
            problem = f"{names['train']!r} is the split of train"
            raise InputError(f"data.{option}: {problem}; accepted: another, or null")
    return {option: Split(splits[name], f"{path}, {name}") for option, name in names.items()}
