"""A recording's gradients are autograd's, to the bit."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

import relprop
from tests.helpers.plain import B, C, Plain, autograd_gradients, ids, pixels
from tests.helpers.walks import recorded


@pytest.mark.parametrize("text", [False, True], ids=["pixels", "ids"])
def test_gradient_is_autograds(text):
    model, x = Plain(text), ids() if text else pixels()
    expected = autograd_gradients(model, x)
    trace = relprop.record(model, x)
    found = trace.gradient(torch.arange(B) % C)
    for f, e, attention, a in zip(found, expected, trace.attention, model.maps, strict=True):
        assert torch.equal(f, e) and torch.equal(attention, a)
    assert all(f.abs().max() > 1e-6 for f in found)


TIMM = {
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 3},
    "swin_tiny_patch4_window7_224": {
        "img_size": 64, "window_size": 2, "depths": (1, 1), "num_heads": (2, 2), "embed_dim": 16
    },
    "resnet10t": {},
    "convnext_atto": {},
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", TIMM)
def test_a_walk_without_corrections_is_the_input_times_autograds_gradient(name, dtype):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **TIMM[name]).to(dtype).eval()
    for module in model.modules():
        if hasattr(module, "fused_attn"):  # which rounds otherwise
            module.fused_attn = False
    x = torch.randn(2, 3, 64, 64, dtype=dtype, requires_grad=True)
    (expected,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    trace = relprop.record(model, x.detach())
    found = trace.source_relevance(torch.tensor([1, 1]), relprop.rules.GRADIENT)
    assert expected.any() and torch.equal(found, x.detach() * expected)


WEIGHT, BIAS = torch.randn(4, 5).double(), torch.randn(4).double()
OPERATIONS = {
    "linear": (lambda x: F.linear(x, WEIGHT, BIAS), [(2, 3, 5)]),
    "x @ W + b": (lambda x: x @ WEIGHT.mT + BIAS, [(2, 3, 5)]),
    "conv2d": (lambda x: F.conv2d(x, WEIGHT.reshape(5, 1, 2, 2), stride=2), [(2, 1, 4, 4)]),
    "a + b": (lambda a, b: a + b, [(2, 3, 4), (2, 1, 4)]),
    "a - 2 b": (lambda a, b: torch.sub(a, b, alpha=2), [(2, 3, 4), (2, 3, 4)]),
    "1 - x": (lambda x: 1 - x, [(2, 3)]),
    "a * b": (lambda a, b: a * b, [(2, 3, 4), (2, 3, 1)]),
    "x * x": (lambda x: x * x, [(2, 3)]),
    "x / 3": (lambda x: x / 3, [(2, 3)]),
    "a @ b": (lambda a, b: a @ b, [(2, 3, 4), (2, 4, 3)]),
    "bmm": (torch.bmm, [(2, 3, 4), (2, 4, 3)]),
    "einsum": (lambda a, b: torch.einsum("bij,bkj->bik", a, b), [(2, 3, 4), (2, 5, 4)]),
    "einsum of a list": (lambda *x: torch.einsum("bij,bkj->bik", x), [(2, 3, 4), (2, 5, 4)]),
    "mean": (lambda x: x.mean(1), [(2, 3, 4)]),
    "sum": (lambda x: x.sum(dim=1, keepdim=True), [(2, 3, 4)]),
    "softmax": (lambda x: F.softmax(x, -1), [(2, 3, 4)]),
    "layer_norm": (lambda x: F.layer_norm(x, (5,), WEIGHT[0]), [(2, 3, 5)]),
    "gelu": (F.gelu, [(2, 3)]),
    "x sigmoid(x)": (lambda x: x * x.sigmoid(), [(2, 3)]),
    "x += y": (lambda x, y: (x * 2).add_(y), [(2, 3), (2, 3)]),
    "attention": (F.scaled_dot_product_attention, [(2, 1, 3, 4)] * 3),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradcheck(name):
    function, shapes = OPERATIONS[name]

    torch.manual_seed(0)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert gradcheck(lambda *x: recorded(function, *x)[0], inputs)
