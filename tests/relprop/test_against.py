"""Why one class rather than another: maps of y_t - y_a."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from relprop import UnsupportedModel, rules
from tests.helpers.plain import B, C, D, Plain, pixels
from tests.helpers.products import chain

TARGET = torch.arange(B) % C
AGAINST = (TARGET + 1) % C
LINEAR = ("lrp", "attnlrp", "cp_lrp", "libra")  # in what relevance begins with


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)


def contrasts(model: Plain) -> list[Tensor]:
    """d (y_t - y_a) / dA of each map, by autograd."""
    y = model(pixels())
    rows = torch.arange(B)
    return torch.autograd.grad((y[rows, TARGET] - y[rows, AGAINST]).sum(), model.maps)


@pytest.mark.parametrize("eps", [0.0, 1e-9, 1e-6])
def test_the_papers_method_has_the_gradient_of_both_and_the_relevance_of_the_target(eps):
    """The rule of sums would share the relevance 1 - 1 = 0 out in each sample."""
    model = Plain()
    R = relprop.record(model, pixels()).relevance(TARGET, eps=eps)
    blocks = [(G * r).relu().mean(1) for G, r in zip(contrasts(model), R, strict=True)]
    found = relprop.explain(model, pixels(), TARGET, against=AGAINST, eps=eps).relevance
    assert_close(found, chain(blocks, "transformer_attribution")[:, 0, 1:])
    alone = relprop.explain(model, pixels(), TARGET, "last_block", against=AGAINST, eps=eps)
    assert_close(alone.relevance, blocks[-1][:, 0, 1:])


def test_generic_attention_has_the_gradient_of_both():
    model = Plain()
    blocks = [
        (G * A.detach()).relu().mean(1) for G, A in zip(contrasts(model), model.maps, strict=True)
    ]
    found = relprop.explain(model, pixels(), TARGET, "generic_attention", against=AGAINST)
    assert_close(found.relevance, chain(blocks, "generic_attention")[:, 0, 1:])


@pytest.mark.parametrize("method", LINEAR)
def test_a_method_that_is_linear_has_the_difference_of_both(method):
    trace = relprop.record(Plain(), pixels())
    found = relprop.explain_trace(trace, TARGET, method, against=AGAINST, eps=0.0).relevance
    of_each = [relprop.explain_trace(trace, t, method, eps=0.0) for t in (TARGET, AGAINST)]
    assert_close(found, of_each[0].relevance - of_each[1].relevance)


def place_dependent(operation: str, block: int, depth: int):
    return (rules.PAPER if block == 1 else rules.LRP).get(operation)


ALONE = {
    "without_gradient": {"method": "without_gradient"},
    "partial_lrp by the paper's rules": {"method": "partial_lrp", "rules": "paper"},
    "lrp by the paper's rules": {"method": "lrp", "rules": "paper"},
    "libra by the paper's rules": {"method": "libra", "rules": "paper"},
    "the paper's rules in one block": {"method": "lrp", "rules": place_dependent},
}


@pytest.mark.parametrize("name", ALONE)
def test_relevance_alone_that_is_shared_out_is_refused(name):
    with pytest.raises(UnsupportedModel, match="that of one class against another is 0; accepted"):
        relprop.explain(Plain(), pixels(), TARGET, against=AGAINST, **ALONE[name])


class Distilled(Plain):
    """The mean of two heads, of the class token and of the first patch."""

    def __init__(self) -> None:
        super().__init__(read=lambda x: x)
        self.other = nn.Linear(D, C).double()

    def forward(self, x: Tensor) -> Tensor:
        head, self.head = self.head, nn.Identity()
        tokens = super().forward(x)
        self.head = head
        return (F.linear(tokens[:, 0], head.weight, head.bias) + self.other(tokens[:, 1])) / 2


def test_both_heads_of_a_distilled_model_have_weight():
    trace = relprop.record(Distilled(), pixels())
    expected = trace.token_weights(TARGET)
    assert (expected[:, :2] > 0).all()
    assert torch.equal(trace.versus(AGAINST).token_weights(TARGET), expected)
    for method in ("generic_attention", "rollout", "transformer_attribution"):
        found = relprop.explain_trace(trace, TARGET, method, against=AGAINST).relevance
        assert (found.sum(1) > 0.1).all() if method == "rollout" else found.std() > 0
    G = trace.versus(AGAINST).gradient(TARGET)
    each = [trace.gradient(t) for t in (TARGET, AGAINST)]
    for g, g_t, g_a in zip(G, *each, strict=True):
        assert_close(g, g_t - g_a)
