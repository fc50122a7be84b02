"""Some of a data set's classes: those that are trained on, after those of an earlier run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import check_option

OPTION = "data.classes"


def chosen_classes(
    given: Sequence[str | int] | None, names: Sequence[str], task: str, marker: bool = False
) -> list[str]:
    """The classes that ``data.classes`` asks for, in its order; null asks for all.

    Args:
        given: the option; a number stands for the class that is named so.
        names: all classes of the data.
        task: what the labels mean.
        marker: whether the data have markers, which are of all classes.

    Raises:
        ValueError: they are not some of the classes, each once, or the labels are no classes.
    """
    if given is None:
        return list(names)
    check_option(OPTION, list(given), task == "multiclass", f"null with the task {task}")
    check_option(OPTION, list(given), not marker, "null with data.marker")
    chosen = [str(name) for name in given]
    fits = chosen and len(set(chosen)) == len(chosen) and set(chosen) <= set(names)
    listed = ", ".join(names[:20]) + ", ..." * (len(names) > 20)
    check_option(
        OPTION, list(given), bool(fits), f"some of the data's classes, each once: {listed}"
    )
    return chosen


def after_earlier(earlier: Sequence[str], trained: Sequence[str]) -> list[str]:
    """The classes of an earlier run, followed by those that are trained on.

    Raises:
        InputError: a class is among both.
    """
    both = [name for name in trained if name in earlier]
    if both:
        raise InputError(
            f"{OPTION}: the run of model.previous has learnt {', '.join(map(repr, both[:5]))}"
            f"{', ...' * (len(both) > 5)}; accepted: classes that it has not learnt"
        )
    return [*earlier, *trained]


def new_labels(
    names: Sequence[str], kept: Sequence[str], class_names: Sequence[str]
) -> dict[int, int]:
    """The places among ``class_names`` of the ``kept`` classes, by their places among ``names``.

    >>> new_labels(["a", "b", "c"], kept=["c"], class_names=["x", "a", "c"])
    {2: 2}
    """
    return {label: class_names.index(name) for label, name in enumerate(names) if name in kept}


def check_some_left(splits: Mapping[str, Sequence], class_names: Sequence[str]) -> None:
    """Raises an InputError that names a split without samples of the classes."""
    for split, samples in splits.items():
        if not len(samples):
            listed = ", ".join(class_names[:5]) + ", ..." * (len(class_names) > 5)
            raise InputError(
                f"{OPTION}: {split} has no sample of {listed}; accepted: classes with samples in "
                "every split"
            )
