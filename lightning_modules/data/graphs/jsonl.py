"""Your own graphs: .jsonl files with a graph a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_modules.data.base import DATAMODULES
from lightning_modules.data.graphs.base import GraphDataModule, GraphItems
from lightning_modules.data.graphs.graph import ACCEPTED, Graph, read_graph
from lightning_modules.data.labels import LabelReader, label_reader
from lightning_modules.data.tables import rows_of
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import PathThere, check_option
from lightning_modules.utils.terminal import counted, tell


def read_graphs(
    split: str, name: str, labels: LabelReader, directed: bool, first: Graph | None
) -> list[tuple[str, dict[str, Any]]]:
    """(file and line, item with the label that ``labels`` reads) of every graph of a file.

    ``first``: the graph whose features the others must have; None: the file's own first.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file's name, the option ``split``, has another ending.
        InputError: the file is not as described.
    """
    jsonl = Path(name).suffix.lower() == ".jsonl"
    check_option(f"data.{split}", name, jsonl, "a file whose name ends in .jsonl")
    rows = []
    for where, row in rows_of(split, name, labels.columns, ACCEPTED):
        graph = read_graph(row, where, directed)
        first = graph if first is None else first
        check_features(graph, first.nodes.shape[1], first.edge_features.shape[1], where)
        rows.append((where, {"graph": graph, "label": labels.read(row, where)}))
    return rows


def check_features(graph: Graph, of_nodes: int, of_edges: int, where: str) -> None:
    """Raises an InputError where nodes or edges have other features than those of the others."""
    for name, found, expected in (
        ("nodes", graph.nodes.shape[1], of_nodes),
        ("edge_features", graph.edge_features.shape[1], of_edges),
    ):
        if found != expected:
            raise InputError(
                f"{where}: {name} has {counted(found, 'number')} each; accepted: {expected}, as in "
                "the graphs that are trained on"
            )


@DATAMODULES.register("graph_jsonl")
class GraphFilesDataModule(GraphDataModule):
    """Graphs and labels from .jsonl files, an object a line; see :func:`~.graph.read_graph`.

    A label is a name or a whole number; the classes are those of train, sorted. Several labels are
    a list, or a column of 0 and 1 each. Numbers are a column each.

    Args:
        train, val: the files of these splits.
        test: that of test. None: val serves as test.
        label_column: name of what has the label or the list of labels; or names, one a label (of 0
            and 1) or a number.
        directed: edges lead from the first node to the second. Otherwise each is two tokens, one in
            each direction.
        node_names: what the features of nodes stand for, to be drawn where one of them is 1 and the
            others are 0, as symbols of atoms. None: nothing is drawn.
        options: those of DataModule.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: an argument is out of its range.
        InputError: a file is not as described, or has a label that train lacks; names file and
            line.
    """

    tasks = ("multiclass", "multilabel", "regression")

    def __init__(
        self,
        train: PathThere,
        val: PathThere,
        test: PathThere | None = None,
        label_column: str | list[str] = "label",
        directed: bool = False,
        node_names: list[str] | None = None,
        **options,
    ) -> None:
        super().__init__(**options)
        labels = label_reader(self.task, label_column, "|", by_number=False)
        files = {"train": train, "val": val} | ({} if test is None else {"test": test})
        made, first = {}, None
        for split, file in files.items():
            rows = read_graphs(split, file, labels, directed, first)
            if split == "train":
                first, self.class_names = rows[0][1]["graph"], labels.class_names(rows)
            made[split] = GraphItems(labels.labelled(rows, self.class_names))
        self.train_dataset, self.val_dataset = made["train"], made["val"]
        if test is None:
            tell("test is null, so val serves as test")
        self.test_dataset = made.get("test", self.val_dataset)
        width = first.nodes.shape[1]
        fits = node_names is None or len(node_names) == width
        check_option("data.node_names", node_names, fits, f"{width} names, one a feature of nodes")
        self.file = str(files.get("test", val))
        self.make_inputs(directed=directed, node_names=node_names)

    def example(self) -> list[str]:
        return ["--input", self.file]
