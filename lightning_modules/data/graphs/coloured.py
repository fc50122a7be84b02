"""Do two coloured edges meet? Graphs whose label only those see who know which edges touch.

A tree of grey nodes and two red-blue edges: both hang on one blue node (label 1) or on two blue
nodes (label 0). The blue ends are tied to grey nodes by two edges, together. So a graph of either
label has as many edges of each pair of colours: as a multiset of edges it tells nothing. Where two
meet, their ties meet as well and close a ring. The ties tell the label, too, and do not count as
deciding. Decoys are further red-blue edges, each on a blue node of its own. Where two meet, these
decide and the decoys do not, so that a map must tell edges of the same colours apart. Offline, and
a graph depends on (seed, split, index, decoys) alone.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from lightning_modules.data.base import DATAMODULES
from lightning_modules.data.graphs.base import GraphDataModule, GraphItems
from lightning_modules.data.graphs.graph import Graph
from lightning_modules.utils.options import Count, Range

SPLIT_NUMBERS = {"train": 0, "val": 1, "test": 2}
CLASS_NAMES = ["apart", "meeting"]
COLORS = ["grey", "red", "blue"]
GREY, RED, BLUE = range(3)
TREE = (8, 13)  # grey nodes, at least and at most


def make_graph(seed: int, split: str, index: int, decoys: int = 0) -> tuple[Graph, int]:
    """A graph, the edges that decide its label, and the label.

    Of edges that meet these two decide, and of edges that are all apart every one.
    """
    rng = np.random.default_rng((seed, SPLIT_NUMBERS[split], index))
    label, grey = int(rng.integers(2)), int(rng.integers(TREE[0], TREE[1] + 1))
    edges = [(int(rng.integers(node)), node) for node in range(1, grey)]
    count = 2 + decoys
    ties = rng.choice(grey, size=count, replace=False).tolist()
    reds = range(grey, grey + count)
    blues = [grey + count + max(0, number - label) for number in range(count)]  # 1: two are one
    coloured = list(zip(reds, blues, strict=True))
    decide = coloured[:2] if label else coloured
    colors = [GREY] * grey + [RED] * count + [BLUE] * (count - label)
    edges += [*zip(blues, ties, strict=True), *coloured]
    # Neither the numbers of nodes nor the order of edges tells anything.
    names, order = rng.permutation(len(colors)), rng.permutation(len(edges))
    nodes = np.zeros((len(colors), len(COLORS)), dtype=np.float32)
    nodes[names, colors] = 1
    deciding = np.array([edge in decide for edge in edges])
    made = Graph(
        nodes,
        names[np.array(edges)][order],
        np.zeros((len(edges), 0), dtype=np.float32),
        deciding[order],
    )
    return made, label


@DATAMODULES.register("coloured_edges")
class ColouredEdgesDataModule(GraphDataModule):
    """Trees with two red-blue edges, which meet or do not, and decoys.

    Args:
        train_size: graphs in train, the same in every epoch.
        val_size: graphs in val.
        test_size: graphs in test.
        decoys: red-blue edges beside the two, which meet no other.
        options: those of DataModule.
    """

    def __init__(
        self,
        *,
        train_size: Count = 2000,
        val_size: Count = 500,
        test_size: Count = 500,
        decoys: Annotated[int, Range(0, TREE[0] - 2)] = 0,
        **options,
    ) -> None:
        super().__init__(**options)
        self.class_names, self.decoys = CLASS_NAMES, decoys

        def graphs(split: str, size: int) -> GraphItems:
            made = (make_graph(self.seed, split, index, decoys) for index in range(size))
            return GraphItems([{"graph": graph, "label": label} for graph, label in made])

        self.train_dataset = graphs("train", train_size)
        self.val_dataset, self.test_dataset = graphs("val", val_size), graphs("test", test_size)
        self.make_inputs(node_names=COLORS, node_colors=COLORS)
