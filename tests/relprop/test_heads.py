"""Whatever a head does with the tokens after the last block, the rows that it reads are read.

And what is no chain of blocks, whose maps may be multiplied, is refused in words.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import ParallelScalingBlock
from torch import Tensor, nn

import relprop
from relprop import UnsupportedModel
from tests.helpers.plain import B, C, D, N, Plain, autograd_gradients, eager, pixels

TARGET = torch.arange(B) % C
OF_CHAINS = [
    "transformer_attribution", "generic_attention", "rollout", "without_gradient",
    "without_relevance",
]  # fmt: skip
OF_A_BLOCK = ["raw_attention", "gradcam", "partial_lrp", "last_block", "second_block"]


def table(rows: int) -> Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(3)).double()


PROTOTYPES = table(C)
# Heads of which class c has the c-th of prototypes; some have as many classes as there are tokens.
CLASS_TOKEN_ALONE = {
    "distances": lambda x: -(x[:, 0].unsqueeze(1) - PROTOTYPES).pow(2).sum(-1),
    "distances, of [1, C, D]": lambda x: -((x[:, 0][:, None] - PROTOTYPES[None]) ** 2).sum(-1),
    "distances from prototypes": lambda x: -(PROTOTYPES - x[:, :1]).pow(2).sum(-1),
    "of as many classes as tokens": lambda x: -(x[:, 0][:, None] - table(N)).pow(2).sum(-1)[:, :C],
    "of the class token expanded": lambda x: -(x[:, :1].expand(-1, N, -1) - table(N))
    .pow(2).sum(-1)[:, 3 : 3 + C],
    "a table": lambda x: F.gelu(x[:, 0][:, None] + PROTOTYPES[None]).sum(-1),
    "a table, as many rows as tokens": lambda x: F.gelu(x[:, 0][:, None] + table(N)).sum(-1)[:, :C],
    "cosines": lambda x: F.linear(F.normalize(x[:, 0], dim=-1), F.normalize(PROTOTYPES, dim=-1)),
    "a residual MLP": lambda x: F.linear(x[:, 0] + F.gelu(x[:, 0] @ table(D)), PROTOTYPES),
    "a residual MLP on [B, 1, D]": lambda x: F.linear(x[:, :1] + F.gelu(x[:, :1] @ table(D)),
                                                     PROTOTYPES)[:, 0],
}  # fmt: skip


def with_head(read) -> Plain:
    model = Plain(read=read)
    model.head = nn.Identity()
    return model


def slow_product(blocks: list[Tensor]) -> Tensor:
    """The class token's row of (I + C^L) ... (I + C^1), multiplied as they stand: [B, N]."""
    product = torch.eye(N).double()
    for block in blocks:
        product = (torch.eye(N).double() + block) @ product
    return product[:, 0]


@pytest.mark.parametrize("name", CLASS_TOKEN_ALONE)
def test_a_head_on_the_class_token_reads_its_row(name):
    """Of every class, by gradients that are autograd's and attention that is the model's."""
    model, x = with_head(CLASS_TOKEN_ALONE[name]), pixels()
    for target in range(C):
        y = model(x)
        G = torch.autograd.grad(y[:, target].sum(), model.maps)
        A = [a.detach() for a in model.maps]
        found = relprop.explain(model, x, target, "generic_attention")
        expected = slow_product([(g * a).relu().mean(1) for g, a in zip(G, A, strict=True)])
        torch.testing.assert_close(found.relevance, expected[:, 1:])
        assert (found.relevance.sum(dim=1) > 0).all()
        found = relprop.explain(model, x, target, "raw_attention")
        torch.testing.assert_close(found.relevance, A[-1].mean(1)[:, 0, 1:])
        found = relprop.explain(model, x, target, "transformer_attribution")
        R = relprop.record(model, x).relevance(torch.full((B,), target))
        expected = slow_product([(g * r).relu().mean(1) for g, r in zip(G, R, strict=True)])
        torch.testing.assert_close(found.relevance, expected[:, 1:], rtol=1e-6, atol=1e-12)


# Heads that add tokens to each other: each reads several.
OF_SEVERAL_TOKENS = {
    "to themselves, turned around": lambda x: (x - x.flip(1)).pow(2).sum(-1)[:, :C],
    "to the class token": lambda x: (x + F.relu(x[:, :1])).pow(2).sum(-1)[:, 2 : 2 + C],
    "to what is made of them": lambda x: F.linear(x + F.gelu(x @ table(D)), PROTOTYPES).mean(1),
    "to their mean": lambda x: F.linear((x - x.mean(1, keepdim=True)).pow(2), PROTOTYPES).mean(1),
    "to prototypes": lambda x: -(x[:, :, None] - PROTOTYPES).pow(2).sum(-1).mean(1),
}


@pytest.mark.parametrize("name", OF_SEVERAL_TOKENS)
def test_rows_are_weighted_by_the_relevance_of_the_last_blocks_tokens(name):
    streams = []

    def between(x):
        streams.append(x)
        return x

    model = with_head(OF_SEVERAL_TOKENS[name])
    model.spelled["between"] = between
    trace = relprop.record(model, pixels())
    (held,) = trace._walk_back([streams[-1]], TARGET, "paper", 0.0)
    held = held.sum(dim=-1).abs()
    found = trace.readout(TARGET, eps=0.0)
    if name == "to what is made of them":  # tokens, too: their sum is read in place of the last
        assert found.sum(dim=1).allclose(torch.ones(B).double())
    else:
        torch.testing.assert_close(found, held / held.sum(dim=1, keepdim=True))
    for method in relprop.METHODS:
        assert relprop.explain_trace(trace, TARGET, method).relevance.isfinite().all()


def test_distances_by_a_function_without_a_rule_are_refused_by_its_name():
    def read(x):
        return -torch.cdist(x[:, :1], PROTOTYPES.expand(len(x), -1, -1))[:, 0]

    with pytest.raises(UnsupportedModel, match="no relevance rule for torch.*cdist; register one"):
        relprop.explain(with_head(read), pixels())


# ---------------------------------------------------------------------------- what is no chain


def keeping_streams(read):
    """A model whose head reads the tokens before each block as well."""
    streams = []

    def between(x):
        streams.append(x)
        return x

    def head(x):
        blocks, streams[:] = streams[-3:], []
        return read(blocks)

    return Plain(between=between, read=head)


def long_skip(add, after: int):
    """As in a U-ViT: after a block, what came out of the first is added once more."""
    streams = []

    def between(x):
        streams.append(x)
        block = (len(streams) - 1) % 3
        return add(x, streams[-1 - block]) if block == after else x

    return Plain(between=between)


def no_residual() -> Plain:
    """Attention in place of x + attention; the MLPs have their residual."""
    calls = []

    def add(x, y):
        calls.append(y)
        return y if len(calls) % 2 else x + y

    return Plain(add=add)


TWICE = torch.cat([torch.eye(D), torch.eye(D)], dim=1).double()
NO_CHAIN = {
    "the head reads two blocks": (
        keeping_streams(lambda blocks: blocks[-1][:, 0] + blocks[-2][:, 0]),
        "the head takes more, or other, than .*after block 2",
    ),
    "the head reads four blocks by cat": (
        keeping_streams(lambda blocks: F.linear(torch.cat(blocks[-2:], -1), TWICE)[:, 0]),
        "the head takes more, or other, than .*after block 2",
    ),
    "the head reads an earlier block": (
        keeping_streams(lambda blocks: blocks[-1].mean(1) * 1e-3 + blocks[-3][:, 0]),
        "the head takes more, or other, than .*after block 2",
    ),
    "a long skip": (
        long_skip(torch.add, after=2),
        "block 2 takes more, or other, than .*after block 1",
    ),
    "a long skip by cat": (
        long_skip(lambda x, y: F.linear(torch.cat([x, y], -1), TWICE), after=1),
        "block 2 takes more, or other, than .*after block 1",
    ),
    "no residual": (no_residual(), "no residual connection leads around the attention of block 2"),
}
MOVED = {
    "turned around": lambda x: x.flip(1),
    "shifted": lambda x: x.roll(1, 1),
    "sorted": lambda x: x.gather(1, x.detach().sum(-1).argsort(1)[..., None].expand_as(x)),
    "indexed": lambda x: x[:, [*range(1, N), 0]],
    "merged and filled": lambda x: torch.cat([x[:, :-2], x[:, -2:].mean(1, True), x[:, :1]], 1),
    "with the class token added": lambda x: x + F.relu(x[:, :1]),
    "mixed": lambda x: x.mT.unflatten(2, (2, -1)).flip(2).flatten(2).mT,
}


@pytest.mark.parametrize("name", NO_CHAIN)
def test_what_is_no_chain_is_refused_by_what_multiplies_maps(name):
    model, message = NO_CHAIN[name]
    trace = relprop.record(model, pixels())
    for method in OF_CHAINS:
        with pytest.raises(UnsupportedModel, match=message):
            relprop.explain_trace(trace, TARGET, method)
    assert relprop.explain_trace(trace, TARGET, "lrp").relevance.std() > 0


@pytest.mark.parametrize("name", MOVED)
def test_tokens_that_change_places_are_refused_by_what_reads_them(name):
    calls = []

    def between(x):
        calls.append(x)
        return MOVED[name](x) if len(calls) % 3 == 1 else x

    trace = relprop.record(Plain(between=between), pixels())
    for method in OF_CHAINS + OF_A_BLOCK:
        with pytest.raises(UnsupportedModel, match="change places between blocks 0 and 1"):
            relprop.explain_trace(trace, TARGET, method)
    assert relprop.explain_trace(trace, TARGET, "lrp").relevance.std() > 0


def changing_places(order: list[int]) -> Plain:
    calls = []

    def between(x):
        calls.append(x)
        return x[:, order] if len(calls) % 3 == 1 else x

    return Plain(between=between)


@pytest.mark.parametrize("i, j", list(itertools.combinations(range(N), 2)))
def test_two_tokens_that_change_places_are_refused(i, j):
    order = list(range(N))
    order[i], order[j] = j, i
    with pytest.raises(UnsupportedModel, match="change places between blocks 0 and 1"):
        relprop.explain(changing_places(order), pixels(), 1)


DROPPED = {
    "selected": lambda x: x[:, [0, 2, 3, 7]],
    "the most attended to": lambda x: torch.cat(
        [x[:, :1], x[:, 1:].gather(1, x.detach()[:, 1:].sum(-1).topk(5).indices[..., None]
                                   .expand(-1, -1, D))], 1),
    "merged": lambda x: torch.cat([x[:, :2], x[:, 2:].unflatten(1, (4, 2)).mean(2)], 1),
    "one more": lambda x: torch.cat([x, x.mean(1, keepdim=True)], 1),
}  # fmt: skip


@pytest.mark.parametrize("method", relprop.METHODS)
@pytest.mark.parametrize("name", DROPPED)
def test_tokens_that_are_dropped_or_merged_are_refused(name, method):
    calls = []

    def between(x):
        calls.append(x)
        return DROPPED[name](x) if len(calls) % 3 == 1 else x

    with pytest.raises(UnsupportedModel, match="block 1 attends to .* tokens and the block before"):
        relprop.explain(Plain(between=between), pixels(), TARGET, method)


@pytest.mark.parametrize(
    "attend, add",
    [
        (lambda q, k, v: eager(q, k, v), lambda x, y: (x + y) / 2),
        (lambda q, k, v: eager(k, q, v), torch.add),
    ],
    ids=["scaled sums", "keys as queries"],
)
def test_what_is_a_chain_is_not_refused(attend, add):
    model = Plain(attend=attend, add=add)
    trace = relprop.record(model, pixels())
    torch.testing.assert_close(trace.gradient(TARGET), autograd_gradients(model, pixels()))
    for method in relprop.METHODS:
        assert relprop.explain_trace(trace, TARGET, method).relevance.isfinite().all()


def test_blocks_side_by_side_with_their_mlp_are_a_chain(tiny_vit, images):
    """(mlp(x) + attention(x)) + x, and scores that a block hands on to the next."""
    model = tiny_vit(block_fn=ParallelScalingBlock)
    assert relprop.explain(model, images, 1).relevance.std() > 0
    kept = []

    def attend(q, k, v):
        scores = q @ k.mT / 2 + (kept[-1] if len(kept) % 3 else 0)
        kept.append(scores)
        attention = scores.softmax(-1)
        return attention @ v, attention

    assert relprop.explain(Plain(attend=attend), pixels(), 1).relevance.std() > 0
