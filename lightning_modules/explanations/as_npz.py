"""explanations.npz: the numbers of all inputs as arrays, of which memory holds one input's."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from lightning_modules.explanations.entries import Entries, Shared
from lightning_modules.explanations.results import Result
from lightning_modules.utils.files import replace_file


def arrays_of(result: Result) -> dict[str, tuple[np.ndarray, list[str]]]:
    """The arrays of one input, and the names of their axes once they are stacked."""
    label = -1 if result.label is None else result.label
    arrays = {
        "logit": (result.logits, ["input", "class"]),
        "label": (np.array(label), ["input"]),
        "class": (np.array(result.classes), ["input", "explained"]),
    }
    if result.activation is not None:
        arrays["probability"] = (result.probability, ["input", "class"])
    for source, part in result.parts.items():
        prefix = f"relevance/{source}" if len(result.parts) > 1 else "relevance"
        axes = ["input", "explained", *part.modality.axes]
        arrays |= {f"{prefix}/{method}": (maps, axes) for method, maps in part.relevance.items()}
    return arrays


def write_npz(entries: Entries, shared: Shared, folder: Path) -> Path:
    """Arrays over all inputs, padded with NaN; ``axes/<array>`` names their axes.

    Goes through the entries twice: for the longest of each axis, then for the arrays.
    """
    path = folder / "explanations.npz"
    names, shapes, kinds = [], {}, {}
    for entry in entries:
        names.append(entry.name)
        for name, (array, axes) in entry.arrays.items():
            shapes[name] = tuple(map(max, array.shape, shapes.get(name, array.shape)))
            kinds.setdefault(name, (array.dtype, axes))
    axes = {"name": ["input"], "class_name": ["class"]}
    axes |= {name: of_array for name, (_, of_array) in kinds.items()}
    whole = {"name": np.array(names), "class_name": np.array(shared.class_names)}
    whole |= {f"axes/{name}": np.array(of_array) for name, of_array in axes.items()}
    with ExitStack() as stack:
        # Beside the file: a temporary folder may be in memory.
        parts = {n: stack.enter_context(tempfile.TemporaryFile(dir=folder)) for n in shapes}
        for name, file in parts.items():
            write_header(file, kinds[name][0], (len(names), *shapes[name]))
        for entry in entries:
            for name, (array, _) in entry.arrays.items():
                parts[name].write(padded(array, shapes[name]).tobytes())

        def write(file: IO[bytes]) -> None:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, array in whole.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        npy.write_array(member, array, allow_pickle=False)
                for name, part in parts.items():
                    part.seek(0)
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        shutil.copyfileobj(part, member)

        replace_file(path, write)
    return path


def write_header(file: IO[bytes], dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """What a .npy file begins with; the numbers follow, row by row."""
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(file, header)


def padded(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The array in one of this shape, with NaN beyond it, or -1 of integers."""
    result = np.full(shape, np.nan if array.dtype.kind == "f" else -1, dtype=array.dtype)
    result[tuple(map(slice, array.shape))] = array
    return result
