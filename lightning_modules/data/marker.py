"""A marker: something in a sample that goes with its label, and is no reason for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import Count, Range, from_mapping

OPTION = "data.marker"
STREAM = 1  # of random numbers, beside those that a sample is made of
Share = Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class Marker:
    """The option ``marker`` of a data set: a share of the samples has a marker of a class.

    Train and val have it as the arguments say; val has no shift in it. The test sets are the same
    samples with the markers at the same places, so that their figures can be compared:

        test: every sample has a marker, which is of the label's class in ``agreement`` of them
        shift: every sample has a marker, whose class is independent of the label
        none: no sample has a marker

    Where a marker of test is of another class than the label, that of shift is of this class, too.

    Args:
        share: of the samples of train and val that have a marker.
        agreement: share of the markers that are of the label's class; the others are of any other
            class.
        size: side of the marker in pixels, of pictures in folders; None: an eighth of theirs.
    """

    share: Share = 0.5
    agreement: Share = 0.95
    size: Count | None = None

    @staticmethod
    def of(given: Mapping[str, Any] | None, task: str, sized: bool = False) -> Marker | None:
        """The marker that an option asks for, if it does.

        Args:
            given: the option.
            task: what the labels of the data mean.
            sized: whether the data take a ``size``.

        Raises:
            InputError: the labels are no classes of which one is right, or the data take no size.
            ValueError: there is no such option, or a value is out of its range.
        """
        if given is None:
            return None
        marker = from_mapping(Marker, OPTION, given)
        if task != "multiclass":
            raise InputError(f"{OPTION}: the task is {task}; accepted: multiclass, or marker=null")
        if marker.size is not None and not sized:
            raise InputError(f"{OPTION}.size: no such option of these data; accepted: null")
        return marker

    def draw(self, rng: np.random.Generator, label: int, classes: int) -> int | None:
        """The class of the marker of a sample; None where the sample has none.

        It takes as many random numbers with any ``share`` and ``agreement``.
        """
        there, agrees = rng.random(2) < (self.share, self.agreement)
        other = (label + int(rng.integers(1, classes))) % classes
        return None if not there else label if agrees else other

    def of_tests(self, classes: int) -> dict[str, Marker]:
        """The markers of the test sets, by name."""
        return {
            "test": replace(self, share=1.0),
            "shift": replace(self, share=1.0, agreement=1 / classes),
            "none": replace(self, share=0.0),
        }


def marker_generator(*key: int) -> np.random.Generator:
    """That of the marker of a sample, which leaves the numbers that the sample is made of alone."""
    return np.random.default_rng((*key, STREAM))
