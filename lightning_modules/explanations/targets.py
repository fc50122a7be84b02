"""Which classes a person wants explained, by name, number, or by what the model predicts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from torch import Tensor

from lightning_modules.utils.errors import InputError

PREDICTED, ALL = "predicted", "all"
TOP = re.compile(r"top([1-9]\d{0,5})")


class Targets:
    """The classes to explain of each sample.

    Args:
        wanted: each ``predicted``, ``topK`` (``top3``), ``all``, a class name or its index.
        class_names: all classes.
        ranked: whether a higher logit is of a likelier class. Else the logits are the numbers of a
            regression: all of them are predicted, in their own order, and there is no ``topK``.

    Raises:
        InputError: there is no such class; the nearest names are told.
    """

    def __init__(
        self, wanted: Sequence[str], class_names: Sequence[str], ranked: bool = True
    ) -> None:
        self.classes = len(class_names)
        self.ranked = ranked
        self.wanted = [self._read(text, class_names) for text in wanted]

    def _read(self, text: str, class_names: Sequence[str]) -> int | range:
        """A class, or a range of places in the order of the logits, highest first."""
        named = [index for index, name in enumerate(class_names) if name == text]
        if len(named) > 1:
            places = ", ".join(map(str, named))
            raise InputError(
                f"--target {text}: {len(named)} classes; accepted: {places}, by number"
            )
        if named:
            return named[0]
        if text == PREDICTED and self.ranked:
            return range(1)
        if text in (PREDICTED, ALL):
            return range(self.classes)
        if (top := TOP.fullmatch(text)) and self.ranked:
            return range(min(int(top[1]), self.classes))
        if text.isdecimal() and int(text) < self.classes:
            return int(text)
        nearest = difflib.get_close_matches(text, class_names, n=5, cutoff=0.4)
        nearest = nearest or list(class_names[:5])
        more = ", ..." if len(nearest) < self.classes else ""
        places = f"{PREDICTED}, top3, {ALL}" if self.ranked else ALL
        raise InputError(
            f"--target {text}: no such class; accepted: {', '.join(nearest)}{more}, "
            f"0 to {self.classes - 1}, {places}"
        )

    def of(self, logits: Tensor) -> list[list[int]]:
        """For each row of ``logits`` [B, C] its classes, each once, in the order asked for."""
        if self.ranked:
            orders = logits.argsort(dim=-1, descending=True, stable=True).tolist()
        else:
            orders = [range(self.classes)] * len(logits)
        result = []
        for order in orders:
            chosen = []
            for wanted in self.wanted:
                chosen += [wanted] if isinstance(wanted, int) else [order[i] for i in wanted]
            result.append(list(dict.fromkeys(chosen)))
        return result
