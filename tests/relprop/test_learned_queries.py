"""Sets of tokens that learned queries pool, with padding and with attention among the queries."""

import pytest
import torch
from torch import Tensor, nn

import relprop
from lightning_modules.models.edge_attention import EdgeSetAttention
from relprop import UnsupportedModel
from tests.helpers.methods import OF_ALL_INPUTS

SEEDS, WIDTH, REAL = 4, 8, 3
# As many edges as there are queries must not make tokens of queries.
EDGES = pytest.mark.parametrize("edges", [7, SEEDS])
SETS = {"generic_attention": "A", "transformer_attribution": "R"}
ONE_MAP = ["raw_attention", "partial_lrp", "last_block"]


def model(layers: str, norm: str = "pre", mlp: str = "standard") -> nn.Module:
    torch.manual_seed(0)
    options = {"width": WIDTH, "heads": 2, "seeds": SEEDS, "embed_width": 8, "graph_width": 8}
    options |= {"dropout": 0.3, "norm": norm, "mlp": mlp, "mlp_width": 6, "mlp_layers": 2}
    return EdgeSetAttention(5, 3, layers=layers, **options).double().eval()


def graphs(edges: int, padded: int = REAL) -> dict[str, Tensor]:
    """Two graphs, the second of which has ``padded`` edges and padding."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(2, edges, dtype=torch.long)
    mask[1, padded:] = 0
    return {
        "edges": torch.randn(2, edges, 5, generator=generator).double(),
        "attention_mask": mask,
        "edge_index": torch.randint(5, (2, edges, 2), generator=generator),
    }


def alone(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The second graph without its padding."""
    return {name: x[1:, :REAL] for name, x in inputs.items()}


@EDGES
@pytest.mark.parametrize("layers", ["MSP", "MPSS", "MS"])
@pytest.mark.parametrize(("method", "factor"), SETS.items())
def test_it_is_the_product_of_all_maps_with_no_i_where_edges_are_pooled(
    layers, method, factor, edges
):
    trace, target = relprop.record(model(layers), graphs(edges)), torch.tensor([2, 0])
    A, G, R = trace.attention, trace.gradient(target), trace.relevance(target)
    read = trace._starts.shares(trace._top(target), trace._backward.ruled("paper", 1e-9))[0]
    expected = []
    for b in range(2):
        w = read[b]
        for block in reversed(range(len(layers))):
            C = torch.zeros(A[block].shape[-2:], dtype=torch.float64)
            for head in range(2):
                of_head = A[block][b, head] if factor == "A" else R[block][b, head]
                C += (G[block][b, head] * of_head).clamp(min=0) / 2
            w = w @ C if layers[block] == "P" else w + w @ C
        expected.append(w)
    found = relprop.explain_trace(trace, target, method).relevance
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-14)


@EDGES
@pytest.mark.parametrize("layers", ["MSP", "MSPS"])
def test_maps_are_0_on_padding_and_whole_among_queries(layers, edges):
    inputs = graphs(edges)
    maps = relprop.record(model(layers), inputs).attention
    alone_maps = relprop.record(model(layers), alone(inputs)).attention
    for letter, padded, own in zip(layers, maps, alone_maps, strict=True):
        rows, columns = own.shape[-2:]
        torch.testing.assert_close(padded[1, :, :rows, :columns], own[0])
        assert torch.isclose(padded[1].sum(), own.sum()), letter


@EDGES
@pytest.mark.parametrize(("layers", "norm"), [("MSP", "pre"), ("MSPS", "pre"), ("MPSS", "post")])
def test_a_padded_set_has_the_map_that_it_has_alone_by_every_method(layers, norm, edges):
    net, inputs = model(layers, norm, "gated"), graphs(edges)
    both, single = relprop.record(net, inputs), relprop.record(net, alone(inputs))
    explained = 0
    for method in OF_ALL_INPUTS:
        try:
            found = relprop.explain_trace(both, 1, method).relevance[1]
        except UnsupportedModel:
            with pytest.raises(UnsupportedModel):
                relprop.explain_trace(single, 1, method)
            continue
        own = relprop.explain_trace(single, 1, method).relevance[0]
        torch.testing.assert_close(found[:REAL], own, rtol=1e-6, atol=1e-9)
        assert not found[REAL:].any(), method
        explained += 1
    assert explained > 9


def test_one_map_that_does_not_lead_to_the_input_is_refused():
    trace = relprop.record(model("MSPS"), graphs(7))
    for method in ONE_MAP:
        with pytest.raises(UnsupportedModel, match="does not lead from what the head reads to"):
            relprop.explain_trace(trace, 0, method)
    with pytest.raises(UnsupportedModel, match="between tokens of the model's own"):
        relprop.explain_trace(trace, 0, "gradcam")
    with pytest.raises(UnsupportedModel, match="does not lead"):  # for several classes at once
        relprop.explain_classes(trace, [0, 1], "second_block")


def test_gradcam_of_a_set_that_is_pooled_is_of_the_pooling_map():
    inputs = graphs(7, padded=7)
    trace = relprop.record(model("MP"), inputs)
    for target in range(3):
        w = trace.token_weights(torch.full((2,), target))  # of the queries
        A, G = trace.attention[-1], trace.gradient(torch.full((2,), target))[-1]
        for b in range(2):
            weights = [float((w[b] @ G[b, head]).mean()) for head in range(2)]
            cam = sum(A[b, h] * weights[h] for h in range(2)).div(2).clamp(min=0)
            row, low, high = w[b] @ cam, cam.min(), cam.max()
            expected = (row - low) / (high - low) if high > low else torch.zeros(7)
            found = relprop.explain_trace(trace, target, "gradcam").relevance[b]
            torch.testing.assert_close(found, expected.to(found))


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("layers", ["MSPS", "SM"])
def test_cp_lrp_conserves_the_logit_without_biases(layers, norm):
    net = model(layers, norm)
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    trace = relprop.record(net, graphs(7))
    for target in range(3):
        for level in ("input", "tokens"):
            found = relprop.explain_trace(trace, target, "cp_lrp", level=level).relevance
            torch.testing.assert_close(found.sum(dim=1), trace.logits[:, target], rtol=1e-6, atol=0)
