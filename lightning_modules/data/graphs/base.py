"""What the data sets of graphs share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from lightning_modules.data.base import DataModule, option_of, say_if_few
from lightning_modules.data.graphs.batches import GraphCollator, input_config_of
from lightning_modules.data.sampling import epoch_and_index
from lightning_modules.utils.terminal import counted


class GraphItems(Dataset):
    """Graphs in memory; an item is the same in every epoch.

    Args:
        items: dicts of ``graph``, a :class:`~.graph.Graph`, and ``label``, as the task has it.
    """

    def __init__(self, items: Sequence[dict[str, Any]]) -> None:
        self.items = items

    @property
    def labels(self) -> list:
        return [item["label"] for item in self.items]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        _, index = epoch_and_index(key)
        return self.items[index]


def with_deciding(dataset: GraphItems) -> int:
    """How many graphs know some edges that decide their label."""
    decided = (item["graph"].deciding for item in dataset.items)
    return sum(x is not None and bool(x.any()) for x in decided)


class GraphDataModule(DataModule):
    """A data set of graphs, whose edges are classified as a set.

    Batches are those of :class:`~.batches.GraphCollator`. A subclass sets the data sets, of
    :class:`GraphItems`, and calls :meth:`make_inputs`.

    Attributes:
        input_config: see :func:`~.batches.input_config_of`.
    """

    train_dataset: GraphItems
    val_dataset: GraphItems
    test_dataset: GraphItems
    collate: GraphCollator

    def make_inputs(self, **options) -> None:
        """Set ``input_config`` and ``collate``; options as of :func:`~.batches.input_config_of`."""
        self.input_config = input_config_of(self.train_dataset.items[0]["graph"], **options)
        self.collate = GraphCollator(self.input_config["directed"])

    def annotated(self, dataset: GraphItems) -> str:
        count = with_deciding(dataset)
        return counted(count, "graph") + " with deciding edges" if count else ""

    def mask_train(self, instead: str = "guidance=null") -> None:
        count = with_deciding(self.train_dataset)
        if not count:
            super().mask_train(instead)
        say_if_few(count, self.train_dataset, "deciding edge", option_of(instead))
