"""What the files of a call have of each input, ready to be written: of a picture a small copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np
import torch

from lightning_modules.explanations.results import first_of


@dataclass(frozen=True)
class Shared:
    """What all inputs of a call have in common.

    Attributes:
        class_names: all C classes.
        activation: as of :class:`Result`.
        methods: those that have explained the inputs.
    """

    class_names: Sequence[str]
    activation: str | None
    methods: Sequence[str]

    @property
    def first(self) -> str | None:
        """As of :class:`Result`."""
        return first_of(self.activation, self.class_names)


@dataclass(frozen=True)
class PageEntry:
    """One input on the page.

    Attributes:
        summary: what inputs are sorted and filtered by, as JSON.
        detail: what its card shows beside, as JSON.
        classes: that are named there, indices.
        width: how many classes are explained.
        colors: as JSON, of each way in which a part of it is shown.
        glimpse: a thumbnail [H, W, 3], uint8, or the beginning of a text.
        scripts: of parts that bring their own, by the way in which they are shown.
        common: as JSON, what the page has once for all inputs that have the same, by name.
    """

    summary: str
    detail: str
    classes: list[int]
    width: int
    colors: dict[str, str]
    glimpse: np.ndarray | str
    scripts: dict[str, str] = field(default_factory=dict)
    common: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One input in the files; None where a format was not asked for.

    Attributes:
        name: where the input is from.
        json: its entry in explanations.json, as text.
        arrays: its part of explanations.npz: by name an array, without the axis of the inputs, and
            the names of its axes.
        page: its part of the page.
    """

    name: str
    json: str | None = None
    arrays: Mapping[str, tuple[np.ndarray, list[str]]] | None = None
    page: PageEntry | None = None


class Entries(Protocol):
    """Those of a call, in their order: a list, or too many for memory, and read as they are asked
    for, each time anew."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Entry]: ...


def plain(entry: Entry) -> dict[str, Any]:
    """An entry as values and tensors that are loaded as data."""
    arrays, page = entry.arrays, None
    if arrays is not None:
        arrays = {name: (tensor(array), axes) for name, (array, axes) in arrays.items()}
    if entry.page is not None:
        page = {x.name: getattr(entry.page, x.name) for x in fields(PageEntry)}
        if isinstance(page["glimpse"], np.ndarray):
            page["glimpse"] = tensor(page["glimpse"])
    return {"name": entry.name, "json": entry.json, "arrays": arrays, "page": page}


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array))  # a copy of what may be a view of more


def entry_of(kept: Mapping[str, Any]) -> Entry:
    """The entry that :func:`plain` has made plain.

    Raises:
        KeyError, TypeError, AttributeError: it is something else.
    """
    arrays, page = kept["arrays"], kept["page"]
    if arrays is not None:
        arrays = {name: (array.numpy(), axes) for name, (array, axes) in arrays.items()}
    if page is not None:
        glimpse = page["glimpse"]
        shown = glimpse if isinstance(glimpse, str) else glimpse.numpy()
        page = PageEntry(**page | {"glimpse": shown})
    return Entry(kept["name"], kept["json"], arrays, page)
