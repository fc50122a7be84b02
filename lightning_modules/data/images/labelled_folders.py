"""Folders of images beside a table of their labels: where they lie.

root/train/**/*          the images, in any folders
root/train/labels.csv    a row an image: its path in that folder, and its labels
root/val/, root/test/    as train; test is optional
"""

import os
from collections.abc import Mapping
from pathlib import Path

from lightning_modules.data.folders import files_in, parted_by_ending
from lightning_modules.data.images.class_folders import Samples
from lightning_modules.data.images.files import IMAGE_ENDINGS
from lightning_modules.data.labels import LabelReader, label_reader
from lightning_modules.data.tables import READERS, rows_of
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import check_option

LAYOUT = (
    f"root/train/ and root/val/, each with images ({' '.join(IMAGE_ENDINGS)}) and a table of their "
    "labels, as labels.csv"
)
TABLE = "a row an image, of its path in this folder and its labels"
NAME = "labels"  # of a table, without its ending


def table_in(split_folder: Path, name: str | None) -> Path:
    """The table of a split.

    Args:
        split_folder: where it lies.
        name: its name; None: ``labels`` with the ending of any table.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: there are several.
    """
    if not split_folder.is_dir():
        raise FileNotFoundError(f"{split_folder}: no such folder; accepted: {LAYOUT}")
    names = [f"{NAME}{ending}" for ending in READERS] if name is None else [name]
    found = [split_folder / name for name in names if (split_folder / name).is_file()]
    if not found:
        looked_for = " or ".join(names)
        raise FileNotFoundError(
            f"{split_folder}: no {looked_for}; accepted: a table of the labels, {TABLE}"
        )
    if len(found) > 1:
        raise InputError(f"{found[0]} and {found[1]}: two tables; accepted: one, or data.labels=")
    return found[0]


def columns_of(table: Path, file_column: str) -> list[str]:
    """The columns of a table but the one of files, as its first row has them."""
    _, row = next(rows_of("labels", table, [file_column], TABLE))
    columns = [name for name in row if name and name != file_column]
    if not columns:
        raise InputError(f"{table}: no column beside {file_column!r}; accepted: {TABLE}")
    return columns


def read_labelled(
    table: Path, file_column: str, reader: LabelReader
) -> tuple[list[tuple[str, dict]], list[str]]:
    """(file and line, image and what the reader gives) of every image of a split; and other files.

    Images are in the order of their folders and names.

    Raises:
        InputError: the table is not as described, or names what is no image of the folder or one
            image twice; or it has no row of an image.
    """
    folder = table.parent
    images, others = parted_by_ending(files_in(folder), IMAGE_ENDINGS)
    path_of = {os.path.normpath(path): path for path in images}
    rows: dict[str, tuple[str, dict]] = {}
    for where, row in rows_of("labels", table, [file_column, *reader.columns], TABLE):
        name = row[file_column]
        path = os.path.normpath(folder / name) if isinstance(name, str) and name.strip() else ""
        if path not in path_of:
            problem = f"{file_column} is {name!r}, and no such image is in {folder}"
            raise InputError(f"{where}: {problem}; accepted: the path of an image below it")
        if path in rows:
            first = rows[path][0]
            raise InputError(f"{where}: {name!r} is in {first}, too; accepted: a row an image")
        rows[path] = (where, {"path": path_of[path], "label": reader.read(row, where)})
    without = [
        os.path.relpath(image, folder) for path, image in path_of.items() if path not in rows
    ]
    if without:
        more = f" and {len(without) - 1} more images" if len(without) > 1 else ""
        raise InputError(f"{table}: no row of {without[0]}{more}; accepted: {TABLE}")
    others = [path for path in others if os.path.basename(path) != table.name]
    return [rows[path] for path in path_of], others


def find_labelled(
    splits: Mapping[str, Path],
    name: str | None,
    file_column: str,
    label_column: str | list[str] | None,
    separator: str,
    task: str,
) -> tuple[list[str], dict[str, Samples], list[str]]:
    """Names of the labels, the samples of each split, and files that are neither image nor table.

    Args:
        splits: folders by name, among them train.
        name: see :func:`table_in`.
        file_column: the column of the paths.
        label_column: see :func:`label_reader`; None: all others.
        separator: see :func:`label_reader`.
        task: what the labels mean.

    Raises:
        FileNotFoundError, InputError: see :func:`table_in` and :func:`read_labelled`.
        ValueError: see :func:`label_reader`.
    """
    tables = {split: table_in(folder, name) for split, folder in splits.items()}
    columns = label_column
    if columns is None:
        columns = columns_of(tables["train"], file_column)
        columns = columns[0] if len(columns) == 1 else columns
    reader = label_reader(task, columns, separator)
    apart = file_column not in reader.columns
    check_option("label_column", label_column, apart, "another column than file_column")
    found = {split: read_labelled(table, file_column, reader) for split, table in tables.items()}
    class_names = reader.class_names(found["train"][0])
    samples = {
        split: [(x["path"], x["label"]) for x in reader.labelled(rows, class_names)]
        for split, (rows, _) in found.items()
    }
    return class_names, samples, [path for _, others in found.values() for path in others]
