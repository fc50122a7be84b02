"""A part of train that is set aside for validation."""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedKFold

from lightning_modules.data.labels import Label
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.terminal import counted, tell

PARTS = 5  # of train, one of which is val
SHARES = np.array([1 - 1 / PARTS, 1 / PARTS])  # of train and of val


def split_off(
    labels: Sequence[Label], seed: int, where: str, task: str
) -> tuple[list[int], list[int]]:
    """Indices of train and of val: a fifth of the samples, at random.

    Of classes it is a fifth of each, of several labels about a fifth of the samples that have each,
    and a label that few have stays in train. Says so.

    Args:
        labels: of all samples.
        seed: of the choice.
        where: the data that have no validation split, for the line that says so and for errors.
        task: what the labels mean, a name in ``TASKS``.

    Raises:
        InputError: there are too few samples, or no class or label has enough of them.
    """
    try:
        chosen = FIFTHS[task](labels, seed)
    except ValueError as error:
        raise InputError(
            f"{where}: {error}, so no part of them can be set aside for validation; accepted: "
            "data.val=, or more samples"
        ) from None
    val = np.zeros(len(labels), dtype=bool)
    val[chosen] = True
    tell(f"{where}: no validation split, so {counted(len(chosen), 'sample')} of train serve as val")
    return np.flatnonzero(~val).tolist(), np.flatnonzero(val).tolist()


def fifth_of_classes(labels: Sequence[int], seed: int) -> np.ndarray:
    """Indices of a fifth of the samples of every class; a ValueError where none has five."""
    folds = StratifiedKFold(PARTS, shuffle=True, random_state=seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a class has less than five samples
            return next(folds.split(np.zeros(len(labels)), np.asarray(labels)))[1]
    except ValueError:
        raise ValueError(f"no class has {PARTS} samples") from None


def fifth_of_labels(labels: Sequence[Sequence[float]], seed: int) -> np.ndarray:
    """Indices of a fifth of the samples, with about a fifth of those that have each label.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011) into two parts: the rarest label
    is dealt first, each of its samples to the part that wants most of that label.

    Raises:
        ValueError: it is none.
    """
    there = np.asarray(labels) > 0.5
    order = np.random.default_rng(seed).permutation(len(there))
    wanted, room = SHARES[:, None] * there.sum(axis=0), SHARES * len(there)
    part = np.full(len(there), -1)

    def deal(samples: np.ndarray, of_label: np.ndarray) -> None:
        for index in samples:
            chosen = max((0, 1), key=lambda x: (of_label[x], room[x]))
            part[index] = chosen
            wanted[chosen] -= there[index]
            room[chosen] -= 1

    while (counts := there[part < 0].sum(axis=0)).any():
        label = np.where(counts > 0, counts, np.inf).argmin()
        deal(order[(part[order] < 0) & there[order, label]], wanted[:, label])
    deal(order[part[order] < 0], room)
    if not (part == 1).any():
        raise ValueError(f"no label is in {PARTS} samples")
    return np.flatnonzero(part == 1)


def fifth_at_random(labels: Sequence[Sequence[float]], seed: int) -> np.ndarray:
    """Indices of a fifth of the samples; a ValueError where it is none."""
    if len(labels) < PARTS:
        raise ValueError(f"there are less than {PARTS} samples")
    return np.random.default_rng(seed).permutation(len(labels))[: len(labels) // PARTS]


FIFTHS = {
    "multiclass": fifth_of_classes,
    "multilabel": fifth_of_labels,
    "regression": fifth_at_random,
}
