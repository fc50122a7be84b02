"""What an explanation of one input comes to: what every kind of output is made from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

ACTIVATIONS = {  # what makes probabilities [C] of logits [C]
    "softmax": lambda logits: logits.softmax(dim=-1),  # of classes, one of which is right
    "sigmoid": lambda logits: logits.sigmoid(),  # of labels, each of which may be
}
FIRST = {"softmax": "predicted", "sigmoid": "most probable"}  # what the likeliest class is called
SIGNED = ("lrp",)  # methods whose relevance may speak against the class: negative values


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
        relevance: for each method an array of float32, [T, rows, columns] over the part of the
            picture that the model saw (patches, or pixels for ``lrp``), or [T, words] of a text,
            NaN on words that were cut off.
        picture: RGB; None for a text.
        region: the part of ``picture`` that the model saw: left, top, right, bottom in its pixels.
        size: width and height of the original, which ``picture`` may be a smaller copy of.
        text: the text; None for a picture.
        words: the (start, end) of the characters of each word of ``text``.
    """

    name: str
    class_names: list[str]
    logits: np.ndarray
    activation: str | None
    classes: list[int]
    label: int | None
    relevance: dict[str, np.ndarray]
    picture: Image.Image | None = None
    region: tuple[float, float, float, float] | None = None
    size: tuple[int, int] | None = None
    text: str | None = None
    words: list[tuple[int, int]] | None = None

    def small(self, longest: int = 320) -> Result:
        """The same with a picture of at most ``longest`` pixels a side: hundreds fit in memory."""
        if self.picture is None or max(self.picture.size) <= longest:
            return self
        copy = self.picture.copy()
        copy.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        x, y = (new / old for new, old in zip(copy.size, self.picture.size, strict=True))
        left, top, right, bottom = self.region
        return replace(self, picture=copy, region=(left * x, top * y, right * x, bottom * y))

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
        return FIRST.get(self.activation) if len(self.class_names) > 1 else None

    @property
    def correct(self) -> bool | None:
        """Whether the model is right; None where nobody knows."""
        return None if self.label is None else self.predicted == self.label
