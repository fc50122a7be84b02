"""Graphs: files, tokens, batches, and the two embedded data sets."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from lightning_modules.data import DATAMODULES
from lightning_modules.data.graphs.batches import GraphCollator, rows_of, tokens_of
from lightning_modules.data.graphs.coloured import BLUE, GREY, RED, SPLIT_NUMBERS, make_graph
from lightning_modules.data.graphs.digits import graph_of
from lightning_modules.data.graphs.graph import Graph, read_graph
from lightning_modules.models.edge_attention import neighbours
from lightning_modules.utils.errors import InputError

GOOD = {
    "nodes": [[1, 0], [0, 1], [0.5, 2]],
    "edges": [[0, 1], [2, 1]],
    "edge_features": [[3], [4]],
    "deciding": [[1, 2]],
    "positions": [[0, 0], [1, 0], [1, 1.5]],
}


def test_a_graph_is_read_as_it_stands():
    graph = read_graph(GOOD, "a.jsonl, line 1", directed=False)
    assert graph.nodes.tolist() == GOOD["nodes"] and graph.edges.tolist() == GOOD["edges"]
    assert graph.edge_features.tolist() == [[3], [4]]
    assert graph.deciding.tolist() == [False, True]  # in either direction
    assert graph.positions.tolist() == GOOD["positions"]
    plain = read_graph({x: GOOD[x] for x in ("nodes", "edges")}, "a", directed=True)
    assert plain.edge_features.shape == (2, 0) and plain.deciding is plain.positions is None
    assert not read_graph(GOOD | {"deciding": []}, "a", False).deciding.any()


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"nodes": None}, "nodes is None; accepted: a list of numbers for each node"),
        ({"nodes": [[1], [0, 1]]}, "nodes is .*accepted: .*all as long"),
        ({"nodes": [[], []]}, "nodes is .*all as long"),
        ({"nodes": [[True, 1]] * 3}, "nodes is"),
        ({"nodes": [[1e39, 1]] * 3}, "nodes has numbers beyond 3e38"),
        ({"nodes": [[float("nan"), 1]] * 3}, "nodes is"),
        ({"nodes": [[10**400, 1]] * 3}, "nodes has numbers beyond 3e38"),
        ({"edges": []}, r"edges is \[\]; accepted: one or more pairs .* from 0 to 2"),
        ({"edges": [[0, 3]]}, r"edges: \[0, 3\] is no edge"),
        ({"edges": [[0, 1.0]]}, "is no edge"),
        ({"edges": "ab"}, "edges is 'ab'; accepted: "),
        ({"edges": [[0, 1], [1, 0]]}, r"\[0, 1\] is there twice; .*or data.directed=true"),
        ({"edge_features": [[1]]}, "edge_features is .*accepted: .*each of the 2 edges"),
        ({"deciding": [[0, 2]]}, r"deciding: \[0, 2\] is not among edges"),
        ({"deciding": 1}, "deciding is 1; accepted: "),
        ({"positions": [[0, 0]]}, r"positions is .*accepted: \[x, y\] for each of the 3 nodes"),
        ({"positions": [[0, 0, 0]] * 3}, "positions is"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_graph_is_told_in_one_line_with_its_place(changed, problem):
    with pytest.raises(InputError, match=f"^a.jsonl, line 7: .*{problem}") as error:
        read_graph(GOOD | changed, "a.jsonl, line 7", directed=False)
    assert "\n" not in str(error.value)


def test_an_undirected_edge_is_two_tokens_and_a_loop_one():
    graph = read_graph(GOOD | {"edges": [[0, 1], [2, 2]], "deciding": []}, "a", False)
    found = tokens_of(graph, directed=False)
    assert found["edge_index"].tolist() == [[0, 1], [1, 0], [2, 2]]
    assert found["edge_of_token"].tolist() == [0, 0, 1]
    nodes = GOOD["nodes"]
    expected = [[*nodes[0], *nodes[1], 3], [*nodes[1], *nodes[0], 3], [*nodes[2], *nodes[2], 4]]
    assert found["edges"].tolist() == expected
    found = tokens_of(graph, directed=True)
    assert found["edge_index"].tolist() == [[0, 1], [2, 2]]


def test_a_batch_is_padded_and_says_where():
    graph = read_graph(GOOD, "a", False)
    small = Graph(
        *(x[:1] if i else x for i, x in enumerate(graph[:3]))
    )  # whose edges do not decide
    batch = GraphCollator(False)([{"graph": graph, "label": 1}, {"graph": small, "label": 0}])
    assert batch["edges"].shape == (2, 4, 5) and batch["attention_mask"].tolist()[1] == [1, 1, 0, 0]
    assert batch["edge_of_token"].tolist() == [[0, 0, 1, 1], [0, 0, -1, -1]]
    assert not batch["edges"][1, 2:].any() and batch["label"].tolist() == [1, 0]
    assert batch["deciding"].tolist() == [[False, True], [False, False]]
    assert batch["has_deciding"].tolist() == [True, False]
    assert batch["graph"][0] is graph
    assert "deciding" not in GraphCollator(False)([{"graph": small, "label": 0}])


def colors(graph: Graph) -> list[int]:
    return graph.nodes.argmax(axis=1).tolist()


def test_coloured_edges_decide_and_their_multiset_does_not():
    """By counting: of either label as many edges of each pair of colours, for as many greys."""
    pairs, labels = {0: set(), 1: set()}, []
    for index in range(80):
        graph, label = make_graph(3, "train", index)
        of_node, labels = colors(graph), [*labels, label]
        kinds = Counter(tuple(sorted(of_node[x] for x in edge)) for edge in graph.edges.tolist())
        grey = of_node.count(GREY)
        assert 8 <= grey <= 13
        assert kinds == {(GREY, GREY): grey - 1, (RED, BLUE): 2, (GREY, BLUE): 2}
        pairs[label].add(grey)
        deciding = graph.edges[graph.deciding]
        assert {tuple(sorted(of_node[x] for x in edge)) for edge in deciding} == {(RED, BLUE)}
        blues = {x for edge in deciding.tolist() for x in edge if of_node[x] == BLUE}
        assert len(deciding) == 2 and len(blues) == 2 - label == of_node.count(BLUE)
        reached, last = {0}, set()
        while reached != last:  # all in one piece
            last = set(reached)
            reached |= {x for a, b in graph.edges.tolist() for x in (a, b) if {a, b} & last}
        assert len(reached) == len(of_node)
    assert 25 < sum(labels) < 55 and len(pairs[0] & pairs[1]) >= 5


def test_decoys_are_coloured_edges_that_decide_nothing_where_two_meet():
    """By counting: as many edges of each pair of colours of either label, and who meets whom."""
    for index in range(40):
        graph, label = make_graph(3, "train", index, decoys=3)
        of_node = colors(graph)
        kinds = Counter(tuple(sorted(of_node[x] for x in edge)) for edge in graph.edges.tolist())
        grey = of_node.count(GREY)
        assert kinds == {(GREY, GREY): grey - 1, (RED, BLUE): 5, (GREY, BLUE): 5}
        coloured = [sorted(edge, key=lambda x: of_node[x]) for edge in graph.edges.tolist()
                    if {of_node[x] for x in edge} == {RED, BLUE}]  # fmt: skip
        uses = Counter(blue for _, blue in coloured)
        assert sorted(uses.values()) == ([1, 1, 1, 2] if label else [1] * 5)
        meeting = {tuple(sorted(edge)) for edge in coloured if uses[edge[1]] == 2}
        every = {tuple(sorted(edge)) for edge in coloured}
        deciding = {tuple(sorted(edge)) for edge in graph.edges[graph.deciding].tolist()}
        assert deciding == (meeting if label else every)
    data = DATAMODULES["coloured_edges"](train_size=9, val_size=1, test_size=1, seed=3, decoys=2)
    for index, item in enumerate(data.train_dataset.items):
        assert len(item["graph"].edges) == len(make_graph(3, "train", index)[0].edges) + 4


def test_a_coloured_graph_is_a_function_of_seed_split_and_index():
    data = DATAMODULES["coloured_edges"](train_size=4, val_size=2, test_size=2, seed=5)
    for split in SPLIT_NUMBERS:
        items = getattr(data, f"{split}_dataset")
        for index in range(2):
            graph, label = make_graph(5, split, index)
            assert items[(7, index)]["label"] == label
            assert np.array_equal(items[index]["graph"].edges, graph.edges)
    assert data.train_dataset[0]["graph"].edges.tolist() != (
        data.val_dataset[0]["graph"].edges.tolist()
    )
    assert data.input_config["node_names"] == ["grey", "red", "blue"]
    assert data.annotated(data.val_dataset) == "2 graphs with deciding edges"


def test_the_pixels_of_a_digit_are_nodes_and_neighbours_have_an_edge():
    ink = np.zeros((8, 8))
    ink[1, 1], ink[1, 2], ink[2, 0], ink[5, 5], ink[0, 0] = 1, 0.5, 0.25, 0.75, 0.2
    graph = graph_of(ink)
    assert graph.nodes[:, 0].tolist() == [1, 0.5, 0.25, 0.75]
    np.testing.assert_allclose(graph.nodes[2, 1:], [2 / 7, 0])
    assert sorted(map(sorted, graph.edges.tolist())) == [[0, 1], [0, 2]]
    np.testing.assert_allclose(graph.positions[2], [0, 1 - 2 / 7])
    data = DATAMODULES["digit_graphs"](train_size=20, val_size=10)
    assert len(data.train_dataset) == 20 and len(data.test_dataset) == 360
    assert len(data.class_names) == 10 and data.input_config["node_features"] == 3


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return str(path)


def test_graphs_of_files_have_labels_of_every_task(tmp_path):
    rows = [GOOD | {"label": x, "weight": i, "tags": [x]} for i, x in enumerate("bab")]
    train, val = (write(tmp_path / f"{x}.jsonl", rows) for x in ("train", "val"))
    files = {"train": train, "val": val}
    data = DATAMODULES["graph_jsonl"](**files, node_names=["C", "N"])
    assert data.class_names == ["a", "b"] and data.train_dataset.labels == [1, 0, 1]
    assert data.test_dataset is data.val_dataset and data.example() == ["--input", val]
    data.mask_train()  # all know what decides
    numbers = DATAMODULES["graph_jsonl"](**files, task="regression", label_column="weight")
    assert next(iter(numbers.val_dataloader()))["label"].tolist() == [[0], [1], [2]]
    several = DATAMODULES["graph_jsonl"](**files, task="multilabel", label_column="tags")
    assert next(iter(several.val_dataloader()))["label"].tolist() == [[0, 1], [1, 0], [0, 1]]


def test_what_is_wrong_with_a_file_names_its_line(tmp_path):
    good = write(tmp_path / "good.jsonl", [GOOD | {"label": "a"}, GOOD | {"label": "b"}])
    cases = {
        "line 2: no edges; accepted": [GOOD | {"label": "a"}, {"nodes": [[1]], "label": "a"}],
        "line 1: no column 'label'": [GOOD],
        "line 2: nodes has 1 number each; accepted: 2": [
            GOOD | {"label": "a"},
            {"nodes": [[1], [2]], "edges": [[0, 1]], "edge_features": [[1]], "label": "a"},
        ],
        "line 1: edge_features has 0 numbers each; accepted: 1": [
            {"nodes": [[1, 0], [2, 0]], "edges": [[0, 1]], "label": "a"}
        ],
        "line 1: unknown label 'c'": [GOOD | {"label": "c"}],
    }
    for place, (problem, rows) in enumerate(cases.items()):
        val = write(tmp_path / f"{place}.jsonl", rows)
        with pytest.raises(InputError, match=f"{place}.jsonl, {problem}|{problem}"):
            DATAMODULES["graph_jsonl"](train=good, val=val)
    with pytest.raises(ValueError, match="data.train: .*ends in .jsonl"):
        DATAMODULES["graph_jsonl"](train=str(tmp_path / "a.csv"), val=good)
    with pytest.raises(ValueError, match="data.node_names: .*accepted: 2 names"):
        DATAMODULES["graph_jsonl"](train=good, val=good, node_names=["C"])


def test_edges_of_a_batch_attend_within_their_graph():
    """The nodes of two graphs have the same numbers."""
    graph = read_graph(GOOD, "a", False)
    batch = rows_of([graph, graph], False)
    there = neighbours(batch["edge_index"], batch["attention_mask"].bool())
    assert there.shape == (2, 4, 4) and torch.equal(there[0], there[1])
