"""Which classes a person wants explained, by name, number, or by what the model predicts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from torch import Tensor

from lightning_modules.errors import InputError

PREDICTED, ALL = "predicted", "all"
TOP = re.compile(r"top([1-9]\d{0,5})")


class Targets:
    """The classes to explain of each sample.

    Args:
        wanted: each ``predicted``, ``topK`` (``top3``), ``all``, a class name or its index.
        class_names: all classes.

    Raises:
        InputError: there is no such class; the nearest names are told.
    """

    def __init__(self, wanted: Sequence[str], class_names: Sequence[str]) -> None:
        self.classes = len(class_names)
        self.wanted = [self._read(text, class_names) for text in wanted]

    def _read(self, text: str, class_names: Sequence[str]) -> int | range:
        """A class, or a range of places in the order of the logits, highest first."""
        if text in class_names:
            return list(class_names).index(text)
        if text == PREDICTED:
            return range(1)
        if text == ALL:
            return range(self.classes)
        if top := TOP.fullmatch(text):
            return range(min(int(top[1]), self.classes))
        if text.isdecimal() and int(text) < self.classes:
            return int(text)
        nearest = difflib.get_close_matches(text, class_names, n=5, cutoff=0.4)
        nearest = nearest or list(class_names[:5])
        more = ", ..." if len(nearest) < self.classes else ""
        raise InputError(
            f"--target {text}: no such class; accepted: {', '.join(nearest)}{more}, "
            f"0 to {self.classes - 1}, {PREDICTED}, top3, {ALL}"
        )

    def of(self, logits: Tensor) -> list[list[int]]:
        """For each row of ``logits`` [B, C] its classes, each once, in the order asked for."""
        result = []
        for order in logits.argsort(dim=-1, descending=True, stable=True).tolist():
            chosen = []
            for wanted in self.wanted:
                chosen += [wanted] if isinstance(wanted, int) else [order[i] for i in wanted]
            result.append(list(dict.fromkeys(chosen)))
        return result
