"""scikit-learn's handwritten digits, dealt to the splits."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lightning_modules.data.classes import new_labels

TILE = 8  # pixels of a side
CLASSES = 10
NAMES = [str(digit) for digit in range(CLASSES)]


class Sources(NamedTuple):
    """The handwritten digits that the scenes of one split are made of."""

    ink: np.ndarray  # float32 [N, 8, 8], 0 (paper) to 1
    classes: np.ndarray  # int64 [N], 0 to 9


def split_sources(seed: int) -> dict[str, Sources]:
    """scikit-learn's 1,797 digits, dealt to train (60%), val (20%) and test (20%) by class."""
    digits = load_digits()
    sources = Sources((digits.images / 16).astype(np.float32), digits.target.astype(np.int64))
    everything = np.arange(len(sources.classes))
    train, rest = train_test_split(
        everything, test_size=0.4, stratify=sources.classes, random_state=seed
    )
    val, test = train_test_split(
        rest, test_size=0.5, stratify=sources.classes[rest], random_state=seed
    )
    parts = {"train": train, "val": val, "test": test}
    return {name: Sources(*(array[part] for array in sources)) for name, part in parts.items()}


def of_classes(sources: Sources, kept: Sequence[str], class_names: Sequence[str]) -> Sources:
    """The digits of the ``kept`` classes, labelled by their places among ``class_names``."""
    labels = new_labels(NAMES, kept, class_names)
    there = np.isin(sources.classes, list(labels))
    of_sample = [labels[digit] for digit in sources.classes[there].tolist()]
    return Sources(sources.ink[there], np.array(of_sample, dtype=np.int64))
