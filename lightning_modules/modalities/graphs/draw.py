"""Drawings of graphs: nodes at their positions, or where a layout puts them, and edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import networkx
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from lightning_modules.data.graphs.graph import Graph
from lightning_modules.modalities.drawing import COLORMAP, DIVERGING

SIDE = 420  # pixels of a drawing
DPI = 100
PLAIN = "#d9d9d9"  # of edges without relevance to show
NODE, RIM = "white", "#555555"
LARGE = 60  # nodes: more are drawn smaller, and without their names
WIDTHS = (1.2, 5.0)  # of edges, the least and the most relevant


def layout(graph: Graph) -> np.ndarray:
    """Where the nodes are drawn, [N, 2]: their own positions, or a layout of their edges.

    The layout is a function of the edges alone: Kamada and Kawai's (1989) of a connected graph,
    else springs'.
    """
    if graph.positions is not None:
        return graph.positions
    made = networkx.Graph()
    made.add_nodes_from(range(len(graph.nodes)))
    made.add_edges_from(graph.edges.tolist())
    if networkx.is_connected(made):
        places = networkx.kamada_kawai_layout(made)
    else:
        places = networkx.spring_layout(made, seed=0)
    return np.array([places[node] for node in range(len(graph.nodes))])


def lines_of(graph: Graph, places: np.ndarray, directed: bool) -> list[np.ndarray]:
    """The line of each edge, points [n, 2]: straight, or a circle where both ends are one node.

    ``places`` [N, 2]. Of two edges that lead to and fro, each is drawn on its own side.
    """
    size = max(float(np.ptp(places, axis=0).max()), 1e-3)
    edges = graph.edges.tolist()
    there = {tuple(edge) for edge in edges}
    angles = np.linspace(0, 2 * np.pi, 30)
    circle = 0.05 * size * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    lines = []
    for source, target in edges:
        line = places[[source, target]]
        if source == target:
            outwards = places[source] - places.mean(axis=0)
            length = np.linalg.norm(outwards)
            outwards = outwards / length if length > 1e-6 * size else np.array([0.0, 1.0])
            line = places[source] + 0.05 * size * outwards + circle
        elif directed and (target, source) in there:
            step = line[1] - line[0]
            aside = np.array([-step[1], step[0]]) / max(np.linalg.norm(step), 1e-9)
            line = line + 0.012 * size * aside
        lines.append(line)
    return lines


def kinds_of(graph: Graph) -> np.ndarray | None:
    """Which feature of each node is 1, the others being 0: int [N]; None where it is not so."""
    is_one = (graph.nodes == 1).sum(axis=1) == 1
    is_rest = (graph.nodes == 0).sum(axis=1) == graph.nodes.shape[1] - 1
    return graph.nodes.argmax(axis=1) if (is_one & is_rest).all() else None


def edge_colors(relevance: np.ndarray, signed: bool) -> tuple[np.ndarray, np.ndarray]:
    """The colour [K, 4] and the width [K] of each edge; as of maps of pictures, from 0 to most.

    Signed relevance is white at 0. Otherwise the least relevant edge is at the dark end.
    """
    relevance = np.nan_to_num(relevance.astype(float))
    if signed:
        most = np.abs(relevance).max()
        share = relevance / most if most > 0 else relevance
        # White on white cannot be seen: what is nearly 0 is grey.
        colors = DIVERGING((share + 1) / 2)
        colors[np.abs(share) < 0.1] = (0.85, 0.85, 0.85, 1)
        strength = np.abs(share)
    else:
        low, high = relevance.min(), relevance.max()
        strength = (relevance - low) / (high - low) if high > low else np.zeros_like(relevance)
        colors = COLORMAP(0.9 * strength)  # its end is too light for white paper
    return colors, WIDTHS[0] + (WIDTHS[1] - WIDTHS[0]) * strength


def draw_graph(
    graph: Graph,
    relevance: np.ndarray | None,
    signed: bool,
    input_config: Mapping[str, Any],
    marked: np.ndarray | None = None,
) -> np.ndarray:
    """A picture of a graph, its edges coloured by their relevance [K]: [SIDE, SIDE, 3], 0..1.

    Args:
        input_config: whose ``node_names`` and ``node_colors`` are drawn.
        marked: edges with a dashed line beside, bool [K]; None: those that are known to decide.
    """
    figure = Figure(figsize=(SIDE / DPI, SIDE / DPI), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    axes.set_axis_off()
    axes.set_aspect("equal", adjustable="datalim")  # a graph on one line fills the picture, too
    places = layout(graph)
    colors, widths = PLAIN, 2.0
    if relevance is not None:
        colors, widths = edge_colors(relevance[: len(graph.edges)], signed)
    marked = graph.deciding if marked is None else marked
    directed = bool(input_config.get("directed"))
    lines = lines_of(graph, places, directed)
    if marked is not None and relevance is None:
        beneath = [line for line, is_marked in zip(lines, marked, strict=True) if is_marked]
        axes.add_collection(
            LineCollection(beneath, colors="#1b9e77", linewidths=7, alpha=0.45, zorder=1)
        )
    axes.add_collection(
        LineCollection(lines, colors=colors, linewidths=widths, capstyle="round", zorder=2)
    )
    draw_nodes(axes, graph, places, input_config)
    axes.margins(0.09)
    axes.autoscale_view()
    if directed:
        draw_arrows(axes, [line for line in lines if len(line) == 2])
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(np.float32) / 255


def draw_nodes(axes, graph: Graph, places: np.ndarray, input_config: Mapping[str, Any]) -> None:
    """Nodes as circles, in their colours and with their names, where they have any."""
    kinds, count = kinds_of(graph), len(places)
    names, colors = (input_config.get(x) for x in ("node_names", "node_colors"))
    face: Any = NODE
    if kinds is not None and colors is not None:
        face = [colors[kind] for kind in kinds]
    named = kinds is not None and names is not None and colors is None and count <= LARGE
    size = 190 if named else 70 if count <= LARGE else 12
    axes.scatter(*places.T, s=size, c=face, edgecolors=RIM, linewidths=0.8, zorder=3)
    if named:
        for (x, y), kind in zip(places, kinds, strict=True):
            axes.text(x, y, names[kind], ha="center", va="center", fontsize=8, zorder=4)


def draw_arrows(axes, lines: Sequence[np.ndarray]) -> None:
    """An arrow in the middle of each line [2, 2], from its first node to its second."""
    ends = np.reshape(lines, (-1, 2, 2))
    middle, step = ends.mean(axis=1), ends[:, 1] - ends[:, 0]
    options = {"angles": "xy", "scale_units": "xy", "scale": 1, "pivot": "mid", "zorder": 2.5}
    axes.quiver(*middle.T, *(step * 1e-3).T, headwidth=6, color=RIM, width=0.004, **options)
