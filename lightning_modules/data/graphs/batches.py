"""Graphs as edges: tokens of one graph, and batches of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_modules.data.graphs.graph import Graph


def input_config_of(
    graph: Graph,
    directed: bool = False,
    node_names: Sequence[str] | None = None,
    node_colors: Sequence[str] | None = None,
) -> dict[str, Any]:
    """How graphs such as this one become inputs, as plain values.

    ``node_names``, ``node_colors``: of what each feature of a node stands for, where one of them is
    1 and the others 0. They are drawn.
    """
    config = {
        "node_features": graph.nodes.shape[1],
        "edge_features": graph.edge_features.shape[1],
        "directed": directed,
    }
    given = {"node_names": node_names, "node_colors": node_colors}
    return config | {name: list(x) for name, x in given.items() if x is not None}


def width_of(input_config: Mapping[str, Any]) -> int:
    """F, how many features an edge has as a token: those of both ends, and its own."""
    return 2 * input_config["node_features"] + input_config["edge_features"]


def tokens_of(graph: Graph, directed: bool) -> dict[str, np.ndarray]:
    """The edges of a graph as E tokens [x_source; x_target; its own features].

    An undirected edge is two, one in each direction, unless it leads from a node to itself.

    Returns:
        ``edges`` float32 [E, F], ``edge_index`` int64 [E, 2], and ``edge_of_token`` int64 [E], the
        place of each token's edge in the graph.
    """
    place = np.arange(len(graph.edges))
    index, of_token = graph.edges, place
    if not directed:
        index = np.stack([graph.edges, graph.edges[:, ::-1]], axis=1).reshape(-1, 2)
        is_loop = index[:, 0] == index[:, 1]
        is_again = is_loop & (np.arange(len(index)) % 2 == 1)
        index, of_token = index[~is_again], place.repeat(2)[~is_again]
    source, target = graph.nodes[index[:, 0]], graph.nodes[index[:, 1]]
    features = np.concatenate([source, target, graph.edge_features[of_token]], axis=1)
    return {"edges": features, "edge_index": index, "edge_of_token": of_token}


def rows_of(graphs: Sequence[Graph], directed: bool) -> dict[str, Any]:
    """What a batch of B graphs has beside labels.

    Returns:
        ``edges`` float32 [B, E, F], ``edge_index`` int64 [B, E, 2], both 0 on padding,
        ``edge_of_token`` int64 [B, E], -1 on padding, ``attention_mask`` int64 [B, E], 0 on
        padding, and the graphs themselves, ``graph``.
    """
    tokens = [tokens_of(graph, directed) for graph in graphs]

    def padded(name: str, filling: int) -> Tensor:
        return pad_sequence([torch.from_numpy(x[name]) for x in tokens], True, filling)

    edge_of_token = padded("edge_of_token", -1)
    return {
        "edges": padded("edges", 0),
        "edge_index": padded("edge_index", 0),
        "edge_of_token": edge_of_token,
        "attention_mask": (edge_of_token >= 0).long(),
        "graph": list(graphs),
    }


class GraphCollator:
    """Makes batches of items ``{"graph": Graph, "label": ...}``.

    A batch has what :func:`rows_of` gives, ``label`` as the task has it, int64 [B] or float32
    [B, C], and where some of its graphs know their deciding edges ``deciding`` bool [B, K], False
    beyond a graph's last edge, and ``has_deciding`` bool [B].
    """

    def __init__(self, directed: bool) -> None:
        self.directed = directed

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        graphs = [item["graph"] for item in items]
        batch = rows_of(graphs, self.directed)
        batch["label"] = torch.tensor([item["label"] for item in items])
        known = [graph.deciding is not None for graph in graphs]
        if any(known):
            deciding = [
                np.zeros(len(x.edges), dtype=bool) if x.deciding is None else x.deciding
                for x in graphs
            ]
            batch["deciding"] = pad_sequence([torch.from_numpy(x) for x in deciding], True)
            batch["has_deciding"] = torch.tensor(known)
        return batch
