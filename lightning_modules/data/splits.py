"""A part of train that is set aside for validation."""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedKFold

from lightning_modules.utils.errors import InputError
from lightning_modules.utils.terminal import counted, tell

PARTS = 5  # of train, one of which is val


def split_off(labels: Sequence[int], seed: int, where: str) -> tuple[list[int], list[int]]:
    """Indices of train and of val: a fifth of the samples of every class, at random.

    Says so.

    Args:
        labels: of all samples.
        seed: of the choice.
        where: the data that have no validation split, for the line that says so and for errors.

    Raises:
        InputError: no class has enough samples.
    """
    folds = StratifiedKFold(PARTS, shuffle=True, random_state=seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a class has less than five samples
            train, val = next(folds.split(np.zeros(len(labels)), np.asarray(labels)))
    except ValueError:
        raise InputError(
            f"{where}: no class has {PARTS} samples, so no part of them can be set aside for "
            "validation; accepted: data.val=, or more samples"
        ) from None
    tell(f"{where}: no validation split, so {counted(len(val), 'sample')} of train serve as val")
    return train.tolist(), val.tolist()
