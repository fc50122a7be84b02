"""Streams that a model stacks, or adds in other ways: right maps or none."""

import pytest
import torch
import torch.nn.functional as F

import relprop
from relprop import UnsupportedModel
from tests.helpers.plain import B, C, D, H, N, Plain, eager, pixels
from tests.helpers.products import METHODS, blocks_of, chain

TARGET = torch.arange(B) % C
OF_METHODS = pytest.mark.parametrize("method", METHODS)


def assert_close(found, expected) -> None:
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def side_by_side(join):
    """Two attentions, joined; as in timm's ParallelThingsBlock."""

    def attend(q, k, v):
        (one, attention), (two, _) = eager(q, k, v), eager(k, q, v)
        return join(one, two), attention

    return attend


SUMS = {
    "sum(0)": lambda a, b: torch.stack([a, b]).sum(0),
    "sum(dim=0)": lambda a, b: torch.stack([a, b]).sum(dim=0),
    "sum(axis=0)": lambda a, b: torch.stack([a, b]).sum(axis=0),
    "torch.sum by name": lambda a, b: torch.sum(input=torch.stack([a, b]), dim=[0]),
    "along another dimension": lambda a, b: torch.stack([a, b], 1).sum(1),
    "along the last dimension": lambda a, b: torch.stack([a, b], dim=-1).sum(-1),
    "kept": lambda a, b: torch.stack([a, b], 1).sum(1, keepdim=True).squeeze(1),
    "of a cat": lambda a, b: torch.cat([a[None], b[None]]).sum(0),
    "after other operations": lambda a, b: (
        F.dropout(torch.stack([a, b]), 0.1, False).clone().transpose(0, 1).contiguous().sum(1)
    ),
    "of parts": lambda a, b: (lambda x: x[1] + x[0])(torch.stack([a, b])),
}  # fmt: skip


@pytest.mark.parametrize("name", SUMS)
def test_attentions_in_a_stack_that_is_summed_are_attentions_side_by_side(name):
    model, added = (Plain(attend=side_by_side(join)) for join in (SUMS[name], torch.add))
    trace, expected = relprop.record(model, pixels()), relprop.record(added, pixels())
    for method in (*METHODS, "lrp", "attnlrp"):
        found, usual = (relprop.explain_trace(t, TARGET, method) for t in (trace, expected))
        assert_close(found.relevance, usual.relevance)


def residual(join):
    """``join`` of x and attention; MLPs as usual."""
    calls = []

    def add(x, y):
        calls.append(y)
        return join(x, y) if len(calls) % 2 else x + y

    return add


@pytest.mark.parametrize("name", SUMS)
def test_a_residual_written_as_the_sum_of_a_stack(name):
    trace = relprop.record(Plain(add=residual(SUMS[name])), pixels())
    for method in METHODS:
        found = relprop.explain_trace(trace, TARGET, method).relevance
        assert_close(found, chain(blocks_of(trace, TARGET, method), method)[:, 0, 1:])
        usual = relprop.explain(Plain(), pixels(), TARGET, method).relevance
        assert_close(found, usual)


def test_a_residual_written_as_the_mean_of_a_stack():
    join = residual(lambda x, y: torch.stack([x, y]).mean(0))
    trace = relprop.record(Plain(add=join), pixels())
    for method in METHODS:
        found = relprop.explain_trace(trace, TARGET, method).relevance
        assert_close(found, chain(blocks_of(trace, TARGET, method), method)[:, 0, 1:])


OF_HEADS = {
    "stacked": lambda heads: torch.stack(heads, 1),
    "cat, and a view": lambda heads: (
        torch.cat([x[:, :, None] for x in heads], 2).view(B, N, D).unflatten(2, (H, -1))
    ).transpose(1, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_HEADS)
@OF_METHODS
def test_a_stack_of_heads_is_as_heads_of_one_map(method, name):
    def head_by_head(q, k, v):
        heads = [eager(q[:, h], k[:, h], v[:, h]) for h in range(H)]
        return OF_HEADS[name]([y for y, _ in heads]), heads[0][1]

    trace = relprop.record(Plain(attend=head_by_head), pixels())
    found = relprop.explain_trace(trace, TARGET, method).relevance
    blocks = blocks_of(trace, TARGET, method)
    both = [(blocks[i] + blocks[i + 1]) / H for i in range(0, len(blocks), H)]
    assert_close(found, chain(both, method)[:, 0, 1:])


TO_SAME = torch.randn(D, D, generator=torch.Generator().manual_seed(0)).double()
IN_STACK = {  # and the same without a stack
    "a layer": (
        lambda x, y: F.linear(torch.stack([x, y]), TO_SAME).sum(0),
        lambda x, y: F.linear(x, TO_SAME) + F.linear(y, TO_SAME),
    ),
    "a sum over another dimension": (
        lambda x, y: torch.stack([x.unflatten(2, (2, -1)), y.unflatten(2, (2, -1))])
        .sum(-2).repeat(1, 1, 1, 2).sum(0),
        lambda x, y: x.unflatten(2, (2, -1)).sum(-2).repeat(1, 1, 2)
        + y.unflatten(2, (2, -1)).sum(-2).repeat(1, 1, 2),
    ),
    "a mean over another dimension that is kept": (
        lambda x, y: x + torch.stack([x, y], -1).mean(2, keepdim=True).sum(-1),
        lambda x, y: x + (x.mean(2, keepdim=True) + y.mean(2, keepdim=True)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_STACK)
def test_what_is_done_within_a_stack_that_is_summed_later(name):
    found, expected = (
        relprop.record(Plain(add=residual(join)), pixels()) for join in IN_STACK[name]
    )
    for method in (*METHODS, "attnlrp"):
        maps = (relprop.explain_trace(t, TARGET, method).relevance for t in (found, expected))
        assert_close(*maps)


TO_ONE = torch.tensor([[0.5, 0.5]]).double()
TO_D = torch.cat([torch.eye(D), torch.eye(D)], 1).double()
CONSTANTS = torch.randn(2, 1, N, D, generator=torch.Generator().manual_seed(0)).double()
UNCLEAR = {
    "weighted over a dimension": lambda x, y: F.linear(torch.stack([x, y], -1), TO_ONE)[..., 0],
    "joined channels": lambda x, y: F.linear(torch.cat([x, y], -1), TO_D),
    "greatest": torch.maximum,
    "greatest of a stack": lambda x, y: torch.stack([x, y]).amax(0),
    "chosen": lambda x, y: torch.where(x > 0, x, y),
    "over two dimensions": lambda x, y: x + torch.stack([x, y]).mean((0, 2)).unsqueeze(1),
    "stacked with a constant": lambda x, y: x + torch.stack([y, torch.ones_like(y)]).sum(0),
    "with constants added": lambda x, y: (torch.stack([x, y]) + CONSTANTS).sum(0),
    "added to a stack": lambda x, y: (x + torch.stack([x, y])).sum(0),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_attention_beside_a_stream_that_no_sum_takes_up_is_refused(name):
    """It would be taken for a function of the whole token."""
    model = Plain(add=residual(UNCLEAR[name]))
    with pytest.raises(UnsupportedModel, match="no sum has taken it up|joins streams of which"):
        relprop.explain(model, pixels(), TARGET, "rollout")
    assert relprop.explain(model, pixels(), TARGET, "attnlrp").relevance.std() > 0


TAKEN_UP = {
    "again": lambda x, y: x + y + y,
    "again, first": lambda x, y: y + (x + y),
    "again, later": lambda x, y: F.relu(x + y) + y,
}


@pytest.mark.parametrize("name", TAKEN_UP)
def test_attention_that_is_added_again_is_refused(name):
    """Its map would count twice."""
    with pytest.raises(UnsupportedModel, match="joins streams of which"):
        relprop.explain(Plain(add=residual(TAKEN_UP[name])), pixels(), TARGET, "rollout")


@OF_METHODS
def test_twice_an_attention_is_that_attention(method):
    trace = relprop.record(Plain(add=residual(lambda x, y: x + (y + y))), pixels())
    found = relprop.explain_trace(trace, TARGET, method).relevance
    assert_close(found, chain(blocks_of(trace, TARGET, method), method)[:, 0, 1:])
