"""Which classes a person wants explained, by name, number, or by what the model predicts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from torch import Tensor

from lightning_modules.tasks import Task
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.names import visible

PREDICTED, PRESENT, ALL = "predicted", "present", "all"
TOP = re.compile(r"top([1-9]\d{0,5})")


class Targets:
    """The classes to explain of each sample.

    Args:
        wanted: each ``predicted``, ``present``, ``topK`` (``top3``), ``all``, a class name or its
            index. The numbers of a regression are all predicted, in their own order, and there is
            no ``topK``. Only of several labels that may be there are some ``present``: those that
            the model finds, or the most probable where it finds none.
        task: what the logits mean.

    Raises:
        InputError: there is no such class; the nearest names are told.
    """

    def __init__(self, wanted: Sequence[str], task: Task) -> None:
        self.task = task
        self.classes = len(task.class_names)
        self.ranked = task.activation is not None  # a higher logit is of a likelier class
        self.wanted = [self._read(text, task.class_names) for text in wanted]

    def _read(self, text: str, class_names: Sequence[str]) -> int | range | str:
        """A class, a range of places in the order of the logits, highest first, or PRESENT."""
        if (found := named_class(text, class_names, "--target")) is not None:
            return found
        if text == PRESENT and self.task.several:
            return PRESENT
        if text == PREDICTED and self.ranked:
            return range(1)
        if text in (PREDICTED, ALL):
            return range(self.classes)
        if (top := TOP.fullmatch(text)) and self.ranked:
            return range(min(int(top[1]), self.classes))
        places = f", {PREDICTED}, top3, {ALL}" if self.ranked else f", {ALL}"
        places += f", {PRESENT}" * self.task.several
        return numbered_class(text, class_names, "--target", places)

    def of(self, logits: Tensor) -> list[list[int]]:
        """For each row of ``logits`` [B, C] its classes, each once, in the order asked for."""
        if self.ranked:
            orders = logits.argsort(dim=-1, descending=True, stable=True).tolist()
        else:
            orders = [range(self.classes)] * len(logits)
        result = []
        for order, of_sample in zip(orders, logits, strict=True):
            chosen = []
            for wanted in self.wanted:
                if wanted == PRESENT:
                    found = self.task.found(of_sample).tolist()
                    chosen += [i for i in order if found[i]] or order[:1]
                else:
                    chosen += [wanted] if isinstance(wanted, int) else [order[i] for i in wanted]
            result.append(list(dict.fromkeys(chosen)))
        return result


def one_class(text: str, class_names: Sequence[str], option: str) -> int:
    """The class of a name or an index; an InputError that names ``option`` where there is none."""
    found = named_class(text, class_names, option)
    return numbered_class(text, class_names, option) if found is None else found


def named_class(text: str, class_names: Sequence[str], option: str) -> int | None:
    """The class of that name; None where there is none."""
    named = [index for index, name in enumerate(class_names) if name == text]
    if len(named) > 1:
        places = ", ".join(map(str, named))
        raise InputError(f"{option} {text}: {len(named)} classes; accepted: {places}, by number")
    return named[0] if named else None


def numbered_class(text: str, class_names: Sequence[str], option: str, places: str = "") -> int:
    """The class of that index. ``places``: what else an error says is accepted."""
    if text.isdecimal() and int(text) < len(class_names):
        return int(text)
    nearest = difflib.get_close_matches(text, class_names, n=5, cutoff=0.4)
    nearest = nearest or list(class_names[:5])
    more = ", ..." if len(nearest) < len(class_names) else ""
    raise InputError(
        f"{option} {text}: no such class; accepted: {', '.join(map(visible, nearest))}{more}, "
        f"0 to {len(class_names) - 1}{places}"
    )
