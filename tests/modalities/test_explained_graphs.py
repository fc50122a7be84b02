"""Graphs explained: both directions of an edge, scores, drawings, and what is read of files."""

import json

import numpy as np
import pytest
import torch

import relprop
from lightning_modules import GraphClassifier
from lightning_modules.data import DATAMODULES
from lightning_modules.data.graphs.graph import Graph
from lightning_modules.metrics import RationaleAUPRC
from lightning_modules.modalities import Graphs
from lightning_modules.modalities.graphs.draw import draw_graph, edge_colors, kinds_of, layout
from lightning_modules.modalities.graphs.explained import ExplainedGraphs
from lightning_modules.protocols import PROTOCOLS, evaluate, values_of
from lightning_modules.utils.errors import InputError
from tests.helpers.methods import OF_ALL_INPUTS

SIZES = {"width": 16, "seeds": 3, "mlp_width": 16, "embed_width": 8, "graph_width": 8}


@pytest.fixture(scope="module")
def data():
    return DATAMODULES["coloured_edges"](train_size=2, val_size=2, test_size=9, batch_size=4)


@pytest.fixture(scope="module")
def module(data):
    torch.manual_seed(0)
    return GraphClassifier(data.class_names, data.input_config, **SIZES).eval()


def explained(relevance, places) -> ExplainedGraphs:
    relevance = torch.tensor(relevance)
    about = {"target": torch.zeros(len(relevance)).long(), "logits": torch.ones(len(relevance), 2)}
    explanation = relprop.Explanation(relevance, grid=None, **about)
    return ExplainedGraphs.of(explanation, edge_of_token=torch.tensor(places))


def test_an_edge_has_the_relevance_of_both_directions():
    found = explained([[1.0, 2, 4, 8, 16], [1, -2, 4, 0, 0]], [[0, 0, 1, 2, 2], [0, 0, 1, -1, -1]])
    assert found.edge_scores.tolist() == [[3, 4, 24], [-1, 4, 0]]
    assert found.seen.tolist() == [[True] * 3, [True, True, False]]
    assert np.isnan(found.arrays()[1, 2]) and found.arrays()[0].tolist() == [3, 4, 24]
    broken = explained([[float("nan"), 1.0]], [[0, 0]])
    assert broken.not_finite().tolist() == [True] and not broken.finite().not_finite().any()


@pytest.mark.parametrize("method", ["transformer_attribution", "attnlrp"])
def test_relevance_does_not_depend_on_which_end_of_an_edge_comes_first(module, data, method):
    items = [data.test_dataset[i] for i in range(4)]
    turned = [
        item | {"graph": item["graph"]._replace(edges=item["graph"].edges[:, ::-1].copy())}
        for item in items
    ]
    found, of_turned = (
        module.explain(data.collate(x), 1, method).edge_scores for x in (items, turned)
    )
    torch.testing.assert_close(found, of_turned, rtol=1e-3, atol=1e-6)
    assert found.std() > 0


def test_scores_and_the_protocol_are_those_of_rationales(module, data):
    batch = data.collate([data.test_dataset[i] for i in range(9)])
    found = module.explain(batch, batch["label"])
    auprc, f1 = RationaleAUPRC(), []
    for b in range(9):
        scores, truth = found.edge_scores[b], batch["deciding"][b]
        count = len(batch["graph"][b].edges)
        scores, truth = scores[None, :count], truth[None, :count]
        auprc.update(scores, truth, torch.ones_like(truth), torch.tensor([count]))
        best = scores[0].argsort(descending=True, stable=True)[:2]
        f1.append(float(truth[0, best].sum()) / 2)
    (modality,) = module.sources.values()
    scores = modality.scores(batch, found)
    assert float(scores["edge_auprc"]) == pytest.approx(float(auprc.compute()["auprc"]))
    assert float(scores["edge_f1"]) == pytest.approx(sum(f1) / 9)
    *_, progress = evaluate(PROTOCOLS["edges"](module, data), ["transformer_attribution"], {})
    values = values_of(progress.metrics["transformer_attribution"])
    assert values["auprc/auprc", None] == pytest.approx(float(scores["edge_auprc"]), abs=1e-4)
    assert values["f1/macro_f1", None] == pytest.approx(sum(f1) / 9, abs=1e-4)


def test_every_method_and_baseline_is_scored_or_refused_in_words(module, data):
    methods = [*OF_ALL_INPUTS, "pooling_attention", "saliency", "integrated_gradients", "random"]
    *_, progress = evaluate(PROTOCOLS["edges"](module, data), methods, {}, 4)
    refused = {"bimodal_attention", "second_block", "libra", "class_gradient", "class_projection"}
    assert set(methods) - progress.metrics.keys() <= refused
    assert all(0 <= values_of(x)["auprc/auprc", None] <= 1 for x in progress.metrics.values())


def test_graphs_without_deciding_edges_have_no_scores(module):
    data = DATAMODULES["digit_graphs"](train_size=2, val_size=2, test_size=4)
    with pytest.raises(InputError, match="no test graph knows the edges that decide"):
        PROTOCOLS["edges"](module, data).samples()
    (modality,) = module.sources.values()
    assert modality.scores(data.collate([data.test_dataset[0]])) == {}


def test_edges_are_drawn_in_the_colours_of_their_relevance(data):
    graph = data.test_dataset[0]["graph"]
    relevance = np.zeros(len(graph.edges), dtype=np.float32)
    plain = draw_graph(graph, None, False, data.input_config)
    assert plain.shape[2] == 3 and 0 <= plain.min() and plain.max() <= 1
    drawn = []
    for place in (0, 1):
        one = relevance.copy()
        one[place] = 1
        drawn.append(draw_graph(graph, one, False, data.input_config))
    assert (drawn[0] != drawn[1]).any() and drawn[0].shape == plain.shape
    colors, widths = edge_colors(np.array([0.0, 1, 2]), False)
    assert widths.argmax() == 2 and colors[2, :3].sum() > colors[0, :3].sum()
    colors, widths = edge_colors(np.array([-2.0, 0, 1]), True)
    assert colors[0, 2] > colors[0, 0] and colors[2, 0] > colors[2, 2]  # blue is against it
    assert widths[0] > widths[2] > widths[1]


def graph_of(nodes: int, edges: list[list[int]], **more) -> Graph:
    return Graph(
        np.eye(nodes, dtype=np.float32), np.array(edges), np.zeros((len(edges), 0)), **more
    )


def coloured(drawn: np.ndarray) -> np.ndarray:
    """Where a drawing has the colour of the most relevant edge, bool [H, W]."""
    red, _, blue = drawn.transpose(2, 0, 1)
    return (red > 0.9) & (blue < 0.5)


@pytest.mark.parametrize(
    ("nodes", "edges"),
    [(2, [[0, 1]]), (1, [[0, 0]]), (3, [[0, 1], [1, 1], [1, 2]]), (3, [[0, 1], [0, 0]])],
    ids=["one edge", "one loop", "a loop on a line", "a loop at an end"],
)
def test_small_graphs_and_loops_are_drawn(nodes, edges):
    """A graph of two nodes was drawn as nothing, and an edge from a node to itself was not."""
    graph = graph_of(nodes, edges)
    for place in range(len(edges)):
        relevance = np.full(len(edges), -1.0)
        relevance[place] = 1
        drawn = draw_graph(graph, relevance, True, {})
        red = (drawn[..., 0] > drawn[..., 2] + 0.2).sum()
        assert 100 < red < 0.1 * drawn.shape[0] * drawn.shape[1]


def test_directed_edges_to_and_fro_are_both_seen():
    config = {"directed": True}
    graph = graph_of(2, [[0, 1], [1, 0]])
    drawn = [draw_graph(graph, np.array(of), False, config) for of in ([1, 0], [0, 1])]
    first, second = map(coloured, drawn)
    assert first.sum() > 300 and second.sum() > 300 and not (first & second).any()
    assert (draw_graph(graph_of(1, [[0, 0]]), None, False, config) < 0.9).any()


def test_edges_that_decide_are_said_to_be_green(data):
    (modality,) = (Graphs("graph", data.input_config),)
    graph = data.test_dataset[0]["graph"]
    assert modality.marks_shown(graph) == "green decides"
    assert modality.marks_shown(graph._replace(deciding=None)) is None
    page = modality.part(graph, {}, 0, {}).page()
    assert page["marked"] == "green decides"


def test_a_layout_is_the_same_each_time_and_positions_win(data):
    graph = data.test_dataset[0]["graph"]
    assert np.array_equal(layout(graph), layout(graph))
    positions = np.random.default_rng(0).normal(size=(len(graph.nodes), 2))
    assert layout(graph._replace(positions=positions)) is positions
    apart = Graph(np.ones((4, 2), np.float32), np.array([[0, 1], [2, 3]]), np.zeros((2, 0)))
    assert np.isfinite(layout(apart)).all() and kinds_of(apart) is None
    assert kinds_of(graph).tolist() == graph.nodes.argmax(axis=1).tolist()


def test_files_are_read_and_what_is_wrong_names_the_line(tmp_path):
    config = {"node_features": 2, "edge_features": 0, "directed": False}
    modality = Graphs("graph", config)
    good = {"nodes": [[1, 0], [0, 1]], "edges": [[0, 1]]}
    lines = tmp_path / "a.jsonl"
    lines.write_text("\n".join(map(json.dumps, [good, good | {"nodes": [[1], [2]]}, [1]])) + "\n{")
    parts = modality.within(lines)
    assert [str(x) for x in parts] == [f"{lines}, line {number}" for number in (1, 2, 3, 4)]
    assert modality.read(parts[0]).edges.tolist() == [[0, 1]]
    for part, problem in zip(
        parts[1:],
        ["nodes has 1 number each; accepted: 2", "no JSON object", "malformed JSON"],
        strict=True,
    ):
        with pytest.raises(InputError, match=f"line {part.number}: {problem}"):
            modality.read(part)
    single = tmp_path / "a.json"
    single.write_text(json.dumps(good, indent=1))
    assert modality.within(single) == [single] and len(modality.read(single).nodes) == 2
