"""Handwritten digits as graphs: pixels with ink are nodes, and neighbours have an edge."""

from __future__ import annotations

import numpy as np

from lightning_modules.data.base import DATAMODULES
from lightning_modules.data.graphs.base import GraphDataModule, GraphItems
from lightning_modules.data.graphs.graph import Graph
from lightning_modules.data.handwritten import NAMES, TILE, Sources, split_sources
from lightning_modules.utils.options import Count

INK = 0.25  # the least that counts, 0 (paper) to 1
NEXT = [(0, 1), (1, -1), (1, 0), (1, 1)]  # half of the 8 neighbours: each edge comes once


def graph_of(ink: np.ndarray) -> Graph:
    """The graph of a digit [8, 8]: nodes (grey, row, column), 0..1, and edges of 8 neighbours."""
    number = {place: i for i, place in enumerate(map(tuple, np.argwhere(ink >= INK).tolist()))}
    edges = [
        (i, number[row + down, column + right])
        for (row, column), i in number.items()
        for down, right in NEXT
        if (row + down, column + right) in number
    ]
    places = np.array(list(number), dtype=np.float32) / (TILE - 1)
    grey = np.array([ink[place] for place in number], dtype=np.float32)
    return Graph(
        np.concatenate([grey[:, None], places], axis=1),
        np.array(edges, dtype=np.int64),
        np.zeros((len(edges), 0), dtype=np.float32),
        positions=np.stack([places[:, 1], 1 - places[:, 0]], axis=1),
    )


@DATAMODULES.register("digit_graphs")
class DigitGraphsDataModule(GraphDataModule):
    """scikit-learn's 1,797 digits, dealt to train (60%), val (20%) and test (20%) by class.

    Args:
        train_size: of the digits of train the first so many; None: all.
        val_size: the same of val.
        test_size: the same of test.
        options: those of DataModule.
    """

    def __init__(
        self,
        *,
        train_size: Count | None = None,
        val_size: Count | None = None,
        test_size: Count | None = None,
        **options,
    ) -> None:
        super().__init__(**options)
        self.class_names = list(NAMES)
        sources = split_sources(self.seed)

        def graphs(of_split: Sources, size: int | None) -> GraphItems:
            pairs = list(zip(of_split.ink, of_split.classes.tolist(), strict=True))[:size]
            return GraphItems([{"graph": graph_of(ink), "label": label} for ink, label in pairs])

        self.train_dataset = graphs(sources["train"], train_size)
        self.val_dataset = graphs(sources["val"], val_size)
        self.test_dataset = graphs(sources["test"], test_size)
        self.make_inputs()
