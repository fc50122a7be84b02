"""What an explanation of one input comes to: what every kind of output is made from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from lightning_modules.modalities.base import Part
from lightning_modules.modalities.drawing import short, stack
from lightning_modules.tasks import ACTIVATIONS
from lightning_modules.utils.names import visible
from lightning_modules.utils.terminal import say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

FIRST = {"softmax": "predicted", "sigmoid": "most probable"}  # what the likeliest class is called
NAME = 60  # characters of an input's name in a heading
SHOWN = 3  # numbers in a heading


@dataclass(frozen=True)
class Result:
    """One input, and why the model gives it each of T classes, by one or several methods.

    Attributes:
        name: where the input is from, as a path or ``text 3``.
        class_names: all C classes.
        logits: of every class, [C].
        activation: a key of ``ACTIVATIONS``; None where the logits are numbers of their own, as of
            a regression, and no class is predicted.
        classes: those explained, T indices into ``class_names``.
        label: the true class, an index; None where it is not known.
        parts: of each source of the input, by name.
        against: the class that those explained are compared with; None of none.
    """

    name: str
    class_names: Sequence[str]
    logits: np.ndarray
    activation: str | None
    classes: list[int]
    label: int | None
    parts: dict[str, Part]
    against: int | None = None

    @property
    def methods(self) -> list[str]:
        """The methods that explain it."""
        return list(next(iter(self.parts.values())).relevance)

    def small(self) -> Result:
        """The same with less content, as the page and the files of numbers need it."""
        return replace(self, parts={name: part.small() for name, part in self.parts.items()})

    @property
    def probability(self) -> np.ndarray | None:
        """Of every class, [C]."""
        if self.activation is None:
            return None
        return ACTIVATIONS[self.activation](torch.from_numpy(self.logits)).numpy()

    @property
    def predicted(self) -> int | None:
        """The most probable class."""
        return None if self.activation is None else int(self.logits.argmax())

    @property
    def first(self) -> str | None:
        """What the likeliest class is called; None where there are no several to choose from."""
        return first_of(self.activation, self.class_names)

    @property
    def correct(self) -> bool | None:
        """True if the model is right; None where nobody knows."""
        return None if self.label is None else self.predicted == self.label

    def is_wrong(self, index: int) -> bool:
        """True if a class is known not to be the true one."""
        return self.label is not None and index != self.label

    # ----------------------------------------------------------------------------- in pictures

    @property
    def heading(self) -> str:
        """The input, what the model takes it for, and what it is."""
        if self.first is None:
            parts = [self.caption(index) for index in self.classes[:SHOWN]]
            parts += ["…"] * (len(self.classes) > SHOWN)
        else:
            parts = [f"{self.caption(self.predicted)} {self.first}"]
        if self.label is not None:
            parts.append(f"{self.called(self.label)} true")
        # The end of a path says more than its beginning.
        name = self.name if len(self.name) <= NAME else "…" + self.name[1 - NAME :]
        return f"{short(name, NAME)}: {', '.join(parts)}"

    def called(self, index: int, length: int = 18) -> str:
        """The name of a class as it is shown."""
        return short(visible(self.class_names[index]), length)

    def caption(self, index: int, mark: str = "") -> str:
        """A class with its probability, or the number that the model gives."""
        name = self.called(index, 24)
        if self.activation is None:
            return f"{name} = {self.logits[index]:.4g}"
        return f"{name}{mark} p = {self.probability[index]:.2f}"

    def question(self, index: int, space: str = " ") -> str:
        """What a map answers. Of a number, which may be negative, it shows what makes it higher."""
        asked = "what raises" if self.activation is None else "why"
        if self.against is None:
            return f"{asked}{space}{self.caption(index, '?')}"
        name, other = (self.called(i, 12) for i in (index, self.against))
        return f"{asked}{space}{name} rather than {other}?"

    def picture(self) -> np.ndarray:
        """The pictures of all parts, one under another: [H, W, 3], uint8.

        The first has the name of the input above it, the others that of their source.
        """
        first, *others = self.parts
        pictures = [self.parts[first].picture(self)]
        pictures += [self.parts[name].picture(replace(self, name=name)) for name in others]
        return stack(pictures)


def first_of(activation: str | None, class_names: Sequence[str]) -> str | None:
    """What the likeliest class is called; None where there are no several to choose from."""
    return FIRST.get(activation) if len(class_names) > 1 else None


def told(result: Result) -> list[str | Text]:
    """What a terminal can show: the coloured words of a text; else what an input is taken for."""
    texts = [part.terminal_text(result) for part in result.parts.values()]
    if not sys.stdout.isatty() or not any(texts):
        return [result.heading]
    return list(filter(None, texts))


def show(line: str | Text, console: Console) -> None:
    """A line that :func:`told` has made."""
    if not sys.stdout.isatty():
        say(line)
    else:
        console.print(line, markup=False, highlight=False)
