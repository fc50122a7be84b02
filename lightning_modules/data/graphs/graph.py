"""A graph, and how a JSON object is read as one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lightning_modules.utils.errors import InputError

ACCEPTED = (
    'a JSON object a graph, {"nodes": [[1, 0], [0, 1]], "edges": [[0, 1]], "label": "a"}, perhaps '
    "with edge_features, deciding and positions"
)
LARGEST = float(np.finfo(np.float32).max)


class Graph(NamedTuple):
    """N nodes and K edges between them.

    Attributes:
        nodes: features of the nodes, float32 [N, n].
        edges: the nodes that each edge is between, or leads from and to, int64 [K, 2].
        edge_features: float32 [K, m]; m may be 0.
        deciding: True on the edges that decide the label, bool [K]; None where nobody knows.
        positions: where the nodes are drawn, x to the right and y up, float32 [N, 2], or None.
    """

    nodes: np.ndarray
    edges: np.ndarray
    edge_features: np.ndarray
    deciding: np.ndarray | None = None
    positions: np.ndarray | None = None


def read_graph(row: Mapping[str, Any], where: str, directed: bool) -> Graph:
    """The graph of a JSON object.

    Args:
        row: ``nodes``, a list of numbers each; ``edges``, two numbers of nodes each, from 0 on; and
            perhaps ``edge_features``, a list of numbers for each edge, ``deciding``, a list of
            edges, and ``positions``, [x, y] of each node.
        where: file and line, for errors.
        directed: edges lead from the first node to the second.

    Raises:
        InputError: it is malformed, or has no edge.
    """
    for name in ("nodes", "edges"):
        if name not in row:
            raise InputError(f"{where}: no {name}; accepted: {ACCEPTED}")
    nodes = table(row["nodes"], f"{where}: nodes", "a list of numbers for each node")
    edges = edges_of(row["edges"], f"{where}: edges", len(nodes))
    check_once(edges, f"{where}: edges", directed)
    features, deciding, positions = (row.get(x) for x in ("edge_features", "deciding", "positions"))
    if features is None:
        of_edges = np.zeros((len(edges), 0), dtype=np.float32)
    else:
        accepted = f"a list of numbers for each of the {len(edges)} edges"
        of_edges = table(features, f"{where}: edge_features", accepted, len(edges))
    if deciding is not None:
        deciding = are_deciding(deciding, edges, f"{where}: deciding", len(nodes), directed)
    if positions is not None:
        accepted = f"[x, y] for each of the {len(nodes)} nodes"
        positions = table(positions, f"{where}: positions", accepted, len(nodes), 2)
    return Graph(nodes, edges, of_edges, deciding, positions)


def table(
    value: object, where: str, accepted: str, rows: int | None = None, columns: int | None = None
) -> np.ndarray:
    """Lists of finite numbers, all as long: float32 [rows, columns]; else an InputError."""
    lists = value if isinstance(value, list) else []
    lengths = {len(x) if isinstance(x, list) else None for x in lists}
    numbers = [x for row in lists if isinstance(row, list) for x in row]
    if (
        len(lengths) != 1
        or not all(type(x) is int or (type(x) is float and math.isfinite(x)) for x in numbers)
        or lengths & {None, 0}
        or rows not in (None, len(lists))
        or lengths not in ({columns}, lengths if columns is None else None)
    ):
        raise InputError(f"{where} is {value!r:.80}; accepted: {accepted}, all as long")
    if any(abs(x) > LARGEST for x in numbers):
        raise InputError(f"{where} has numbers beyond 3e38; accepted: smaller ones")
    return np.array(lists, dtype=np.float32)


def edges_of(value: object, where: str, nodes: int) -> np.ndarray:
    """Pairs of numbers of nodes, int64 [K, 2]; an InputError if it is none."""
    accepted = f"accepted: one or more pairs of nodes, which are numbers from 0 to {nodes - 1}"
    if not isinstance(value, list) or not value:
        raise InputError(f"{where} is {value!r:.80}; {accepted}")
    for pair in value:
        fits = isinstance(pair, list) and len(pair) == 2
        if not fits or not all(type(x) is int and 0 <= x < nodes for x in pair):
            raise InputError(f"{where}: {pair!r:.80} is no edge; {accepted}")
    return np.array(value, dtype=np.int64)


def check_once(edges: np.ndarray, where: str, directed: bool) -> None:
    """Raises an InputError where an edge comes twice."""
    alike = edges if directed else np.sort(edges, axis=1)
    found, counts = np.unique(alike, axis=0, return_counts=True)
    if (counts > 1).any():
        pair = found[counts > 1][0].tolist()
        instead = "" if directed else ", in one direction; or data.directed=true"
        raise InputError(f"{where}: {pair} is there twice; accepted: each edge once{instead}")


def are_deciding(
    value: object, edges: np.ndarray, where: str, nodes: int, directed: bool
) -> np.ndarray:
    """Which of the edges are those of a list, which may be empty: bool [K]."""
    pairs = np.zeros((0, 2), int) if value == [] else edges_of(value, where, nodes)
    known = {tuple(pair): place for place, pair in enumerate(edges.tolist())}
    if not directed:
        known |= {(b, a): place for (a, b), place in known.items()}
    found = np.zeros(len(edges), dtype=bool)
    for pair in map(tuple, pairs.tolist()):
        if pair not in known:
            raise InputError(f"{where}: {list(pair)} is not among edges; accepted: edges alone")
        found[known[pair]] = True
    return found
