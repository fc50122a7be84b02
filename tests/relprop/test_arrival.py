"""Maps that leave out attention which nothing goes round are refused, where they were 0."""

import functools

import pytest
import torch
from torch import Tensor

import relprop
from relprop import UnsupportedModel
from tests.helpers.plain import B, C, D, N, Plain, pixels

TARGET = torch.arange(B) % C


def no_residual_in_block_2(x, y, calls: list) -> Tensor:
    calls.append(y)
    return y if len(calls) % 6 == 3 else x + y


ONE_MAP = ("raw_attention", "partial_lrp", "last_block")


@pytest.mark.parametrize("method", [*ONE_MAP, "libra"])
def test_what_leaves_out_attention_without_a_residual_is_refused(method):
    model = Plain(add=functools.partial(no_residual_in_block_2, calls=[]))
    trace = relprop.record(model, pixels())
    with pytest.raises(UnsupportedModel, match="map 1 has no residual"):
        relprop.explain_trace(trace, 0, method)
    with pytest.raises(UnsupportedModel, match="map 1 has no residual"):
        relprop.explain_classes(trace, [0, 1], method)


def test_a_product_that_leaves_out_attention_without_a_residual_is_refused():
    model = Plain(add=functools.partial(no_residual_in_block_2, calls=[]))
    trace = relprop.record(model, pixels())
    assert relprop.explain_trace(trace, 0, "rollout", start_layer=1).relevance.any()
    with pytest.raises(UnsupportedModel, match="map 1 has no residual"):
        relprop.explain_trace(trace, 0, "rollout", start_layer=2)


def attention_added_to_constants(block: int) -> Plain:
    calls, positions = [], torch.randn(1, N, D).double()

    def add(x, y):
        calls.append(y)
        return y + positions if len(calls) % 6 == 2 * block + 1 else x + y

    return Plain(add=add)


@pytest.mark.parametrize("method", ONE_MAP)
def test_one_map_above_attention_that_is_added_to_constants_is_refused(method):
    with pytest.raises(UnsupportedModel, match="in place of a residual .map 1"):
        relprop.explain(attention_added_to_constants(1), pixels(), TARGET, method)


def test_libra_of_streams_above_attention_that_is_added_to_constants_is_refused():
    with pytest.raises(UnsupportedModel, match="and none of the input"):
        relprop.explain(attention_added_to_constants(0), pixels(), TARGET, "libra")


def test_one_map_below_which_all_have_a_residual_needs_none():
    model = Plain(add=functools.partial(no_residual_in_block_2, calls=[]))
    trace = relprop.record(model, pixels())
    found = relprop.explain_trace(trace, 0, "second_block").relevance
    G, R = trace.gradient(zeros := torch.zeros(B, dtype=torch.long)), trace.relevance(zeros)
    C = (G[1] * R[1]).relu().mean(dim=1)
    expected = C[:, 0, 1:]
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
