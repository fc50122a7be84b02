"""What a GPU does: the same maps, no waiting for values, and so a CUDA graph."""

import pytest
import timm
import torch

import relprop

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
METHODS = ["transformer_attribution", "generic_attention", "attnlrp", "cp_lrp", "libra"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=10).double().eval()


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_those_of_the_cpu(model, method):
    x = torch.randn(3, 3, 160, 160, dtype=torch.float64)
    expected = relprop.explain(model.cpu(), x, 1, method).relevance
    found = relprop.explain(model.cuda(), x.cuda(), 1, method).relevance
    torch.testing.assert_close(
        found.cpu(), expected, rtol=1e-9, atol=float(1e-9 * expected.abs().max())
    )


@pytest.mark.parametrize("target", [None, 1])
@pytest.mark.parametrize("method", METHODS)
def test_a_cuda_graph_explains_another_picture(model, method, target):
    """Capturing raises where the host waits for a value."""
    model, side = model.cuda(), torch.cuda.Stream()
    x = torch.randn(1, 3, 160, 160, dtype=torch.float64, device="cuda")
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        relprop.explain(model, x, target, method)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        explanation = relprop.explain(model, x, target, method)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert explanation.relevance.equal(relprop.explain(model, x, target, method).relevance)
