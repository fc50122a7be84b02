"""Pictures in the rows of a split, each read when its turn comes."""

from __future__ import annotations

import numpy as np
from PIL import Image

from lightning_modules.data.images.files import read_image
from lightning_modules.data.rows.splits import Split
from lightning_modules.utils.errors import InputError

ACCEPTED = (
    "a picture as datasets.Image, the bytes of its file, or an array [H, W], [H, W, 3] or "
    "[3, H, W] of 0 to 255"
)


class Pictures:
    """Reads the RGB picture in a row of a split.

    What is stored as a file is read as one in a folder is, by `read_image`.

    Args:
        split: the split.
        column: of the pictures.

    Raises:
        InputError: a row has no picture, or that of the first row cannot be read.
    """

    def __init__(self, split: Split, column: str) -> None:
        import datasets

        self.column, self.where = column, split.where
        dataset = split.rows
        rows = dataset.select_columns([column])
        feature = dataset.features[column]
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
        elif isinstance(feature, (datasets.Array2D, datasets.Array3D)):
            rows = rows.with_format("numpy")  # as lists it would be slow
        self.rows = rows
        stored = dataset.data.column(column)
        if stored.null_count and len(stored) == len(dataset):
            row = int(stored.is_null().to_numpy().argmax())
            raise InputError(f"{self.where}, row {row}: {column} is null; accepted: {ACCEPTED}")
        self(0)

    def __call__(self, row: int) -> Image.Image:
        value = self.rows[row][self.column]
        where = f"{self.where}, row {row}: {self.column}"
        if isinstance(value, dict) and value.get("bytes") is None and value.get("path"):
            return read_image(value["path"])
        content = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(content, bytes):
            return read_image(where, content)
        if isinstance(content, (list, np.ndarray)):
            return picture_of_array(content, where)
        raise InputError(f"{where} is of type {type(value).__name__}; accepted: {ACCEPTED}")


def picture_of_array(values: list | np.ndarray, where: str) -> Image.Image:
    """The RGB picture of whole numbers from 0 to 255, with the colours first or last.

    Raises:
        InputError: they are no such array.
    """
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    colours = array.shape[2] if array.ndim == 3 else 1
    in_shape = array.ndim in (2, 3) and colours in (1, 3, 4) and array.size > 0
    whole = array.dtype.kind in "iu"
    if not (in_shape and whole and array.min() >= 0 and array.max() <= 255):
        shape = f"an array {list(array.shape)} of {array.dtype}"
        found = f", {array.min()} to {array.max()}" if in_shape and whole else ""
        raise InputError(f"{where} is {shape}{found}; accepted: {ACCEPTED}")
    array = array.astype(np.uint8)
    return Image.fromarray(array[..., 0] if array.ndim == 3 and colours == 1 else array).convert(
        "RGB"
    )
