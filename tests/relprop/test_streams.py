"""Models that are no single chain of blocks: their maps are products of full matrices."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from relprop import UnsupportedModel
from tests.helpers.plain import B, C, D, H, N, Plain, eager, ids, pixels
from tests.helpers.products import METHODS, blocks_of, chain, step

TARGET = torch.arange(B) % C
OF_METHODS = pytest.mark.parametrize("method", METHODS)


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def found_and_blocks(model, inputs, method):
    trace = relprop.record(model, inputs)
    found = relprop.explain_trace(trace, TARGET, method)
    return found, blocks_of(trace, TARGET, method)


# ------------------------------------------------------------------------ within a block


def some_keys(q, k, v):
    return eager(q, k[:, :, :4], v[:, :, :4])


def windows(q, k, v):
    q, k, v = (x.unflatten(2, (2, 5)).transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    y, attention = eager(q, k, v)
    return y.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2, 3), attention


def twice(q, k, v):
    """As in timm's ParallelThingsBlock."""
    (one, attention), (two, _) = eager(q, k, v), eager(k, q, v)
    return one + two, attention


def first_head(q, k, v):
    y, attention = eager(q[:, :1], k[:, :1], v[:, :1])
    return torch.cat([y, v[:, 1:]], dim=1), attention


def keys_before_queries(q, k, v):
    """[..., m, d] and its transpose, as in convolutional attention."""
    attention = (q @ k.mT / (D // H) ** 0.5).softmax(-1)
    return (v.mT @ attention.mT).mT, attention


def test_attention_that_takes_part_of_the_channels():
    """As in SHViT: what goes around it counts in the sum of a row as well."""

    found, blocks = found_and_blocks(Plain(attend=first_head), pixels(), "rollout")
    identity, product = torch.eye(N).double(), torch.eye(N).double()
    for block in blocks:  # half of the channels go through the map, half past it
        product = (identity + block / 2 + identity / 2) / 2 @ product
    assert_close(found.relevance, product[:, 0, 1:])


def test_one_map_that_takes_part_of_the_channels():
    """Blocks that do not count pass each token on once, whatever goes around their attention."""
    trace = relprop.record(Plain(attend=first_head), pixels())
    A, identity = trace.attention[-1].mean(dim=1), torch.eye(N).double()
    found = relprop.explain_trace(trace, TARGET, "raw_attention").relevance
    assert_close(found, (A / 2 + identity / 2)[:, 0, 1:])
    found = relprop.explain_trace(trace, TARGET, "generic_attention", start_layer=2).relevance
    C = blocks_of(trace, TARGET, "generic_attention")[-1]
    assert_close(found, (identity + C / 2 + identity / 2)[:, 0, 1:])


def test_one_map_of_attentions_side_by_side_is_their_mean():
    trace = relprop.record(Plain(attend=twice), pixels())
    found = relprop.explain_trace(trace, TARGET, "raw_attention").relevance
    both = torch.stack([A.mean(dim=1) for A in trace.attention[-2:]])
    assert_close(found, both.mean(dim=0)[:, 0, 1:])


def test_keys_that_are_some_of_the_tokens():
    for method in METHODS:
        found, blocks = found_and_blocks(Plain(attend=some_keys), pixels(), method)
        whole = [F.pad(C, (0, N - 4)) for C in blocks]
        assert_close(found.relevance, chain(whole, method)[:, 0, 1:])


@OF_METHODS
def test_windows_that_tokens_attend_within(method):
    found, blocks = found_and_blocks(Plain(attend=windows), pixels(), method)
    whole = [torch.stack([torch.block_diag(*C[2 * b : 2 * b + 2]) for b in range(B)])
             for C in (C.flatten(0, -3) for C in blocks)]  # fmt: skip
    assert_close(found.relevance, chain(whole, method)[:, 0, 1:])


@OF_METHODS
def test_two_attentions_side_by_side(method):
    found, blocks = found_and_blocks(Plain(attend=twice), pixels(), method)
    assert len(blocks) == 6
    both = [blocks[i] + blocks[i + 1] for i in (0, 2, 4)]
    assert_close(found.relevance, chain(both, method)[:, 0, 1:])


@OF_METHODS
def test_values_that_come_before_the_map(method):
    found = relprop.explain(Plain(attend=keys_before_queries), pixels(), TARGET, method)
    assert_close(found.relevance, relprop.explain(Plain(), pixels(), TARGET, method).relevance)


# ------------------------------------------------------------- tokens in other places


def after_patches(place):
    """Tokens of which the class token, or padding, is not the first."""

    def tokens(self, x):
        patches = self.embed(x).flatten(2).transpose(1, 2) + self.position[:, 1:]
        return place(patches, self.prefix.expand(len(x), -1, -1))

    return tokens


def written(patches, prefix):
    tokens = torch.zeros(len(patches), N, D).double()
    tokens[:, : N - 1], tokens[:, N - 1 :] = patches, prefix
    return tokens


TO_D = torch.randn(D, D, generator=torch.Generator().manual_seed(0)).double()
# Where tokens are put, and the weights of patches of those of the tokens [B, N].
PLACES = {
    "before the class token": (lambda x, c: torch.cat([x, c], 1), lambda w: w[:, :-1]),
    "before it, after a linear layer": (
        lambda x, c: torch.cat([F.linear(x, TO_D), c], 1), lambda w: w[:, :-1]
    ),
    "before padding": (lambda x, c: F.pad(x, (0, 0, 0, 1)), lambda w: w[:, :-1]),
    "before it in a buffer": (written, lambda w: w[:, :-1]),
    "columns first": (
        lambda x, c: torch.cat([c, x.unflatten(1, (3, 3)).transpose(1, 2).flatten(1, 2)], 1),
        lambda w: w[:, 1:].unflatten(1, (3, 3)).transpose(1, 2).flatten(1),
    ),
    "backwards": (lambda x, c: torch.cat([c, x.flip(1)], 1), lambda w: w[:, 1:].flip(1)),
    "pooled": (
        lambda x, c: torch.cat([c, x.unflatten(1, (3, 3)).mean(2)], 1),
        lambda w: w[:, 1:].repeat_interleave(3, 1) / 3,
    ),
}  # fmt: skip


@OF_METHODS
@pytest.mark.parametrize("name", PLACES)
def test_patches_are_followed_to_wherever_their_tokens_are(name, method):
    place, of_patches = PLACES[name]
    model = Plain(tokens=after_patches(place))
    found, blocks = found_and_blocks(model, pixels(), method)
    assert found.grid == (3, 3)
    assert_close(found.relevance, of_patches(chain(blocks, method)[:, 0]))
    with pytest.raises(UnsupportedModel, match="3 x 3 patches, row by row, are not the last"):
        relprop.explain(model, pixels(), TARGET, "gradcam")


# Between the first and the second block: what becomes of tokens, and the weights of those before.
MOVED = {
    "turned around": (lambda x: x.flip(1), lambda w: w.flip(1)),
    "shifted": (lambda x: x.roll(1, 1), lambda w: w.roll(-1, 1)),
    "indexed": (lambda x: x[:, [*range(1, N), 0]], lambda w: w.roll(1, 1)),
    "merged and filled": (
        lambda x: torch.cat([x[:, :-2], x[:, -2:].mean(1, True), x[:, :1]], 1),
        lambda w: torch.cat(
            [w[:, :1] + w[:, -1:], w[:, 1:-2], (w[:, -2:-1] / 2).expand(-1, 2)], 1),
    ),
    "selected": (
        lambda x: x[:, [0, 2, 3, 7]],
        lambda w: torch.zeros(B, N).double().index_add_(1, torch.tensor([0, 2, 3, 7]), w),
    ),
    "merged": (
        lambda x: torch.cat([x[:, :2], x[:, 2:].unflatten(1, (4, 2)).mean(2)], 1),
        lambda w: torch.cat([w[:, :2], w[:, 2:].repeat_interleave(2, 1) / 2], 1),
    ),
    "one more": (
        lambda x: torch.cat([x, x.mean(1, keepdim=True)], 1), lambda w: w[:, :-1] + w[:, -1:] / N
    ),
    "with the class token added": (
        lambda x: x + F.relu(x[:, :1]),
        lambda w: torch.cat([w[:, :1] / 2 + w.sum(1, True) / 2, w[:, 1:] / 2], 1),
    ),
}  # fmt: skip


@OF_METHODS
@pytest.mark.parametrize("name", MOVED)
def test_tokens_are_followed_between_blocks(name, method):
    move, before = MOVED[name]
    calls = []

    def between(x):
        calls.append(x)
        return move(x) if len(calls) % 3 == 1 else x

    model = Plain(between=between)
    found, blocks = found_and_blocks(model, pixels(), method)
    w = before(chain(blocks[1:], method)[:, 0])
    assert_close(found.relevance, (w[:, None] @ sum(step(blocks[0], method)))[:, 0, 1:])
    calls.clear()
    if name == "with the class token added":  # each patch is the same token in all blocks
        return
    with pytest.raises(UnsupportedModel, match="not the last tokens of a block, in its order"):
        relprop.explain(model, pixels(), TARGET, "gradcam")


@pytest.mark.parametrize("i, j", list(itertools.combinations(range(N), 2)))
def test_two_tokens_that_change_places_are_no_chain_for_gradcam(i, j):
    calls = []

    def between(x):
        calls.append(x)
        order = list(range(N))
        order[i], order[j] = j, i
        return x[:, order] if len(calls) % 3 == 1 else x

    with pytest.raises(UnsupportedModel, match="not the last tokens of a block, in its order"):
        relprop.explain(Plain(between=between), pixels(), 1, "gradcam")


@OF_METHODS
@pytest.mark.parametrize("sides", [(1, 1), (2, 0)])
def test_zeros_around_a_convolution_are_no_tokens(sides, method):
    """However they get there: by the convolution, or before it."""
    torch.manual_seed(0)
    kernel = torch.randn(D, D, 3).double()

    def within(x):
        return F.conv1d(x.mT, kernel, padding=sides[0]).mT[:, :N]

    def before(x):
        return F.conv1d(F.pad(x.mT, pad=sides), kernel).mT

    one, other = (relprop.record(Plain(between=b), pixels()) for b in (within, before))
    torch.testing.assert_close(one.logits, other.logits)
    found, expected = (relprop.explain_trace(t, TARGET, method).relevance for t in (other, one))
    assert_close(found, expected)


# ------------------------------------------------------------------------- streams


def no_residual() -> Plain:
    """Attention in place of x + attention; the MLPs have their residual."""
    calls = []

    def add(x, y):
        calls.append(y)
        return y if len(calls) % 2 else x + y

    return Plain(add=add)


@OF_METHODS
def test_without_a_residual_there_is_no_identity(method):
    found, blocks = found_and_blocks(no_residual(), pixels(), method)
    assert_close(found.relevance, (blocks[2] @ blocks[1] @ blocks[0])[:, 0, 1:])


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


TWICE = torch.cat([torch.eye(D), torch.eye(D)], dim=1).double()
OF_TWO_BLOCKS = {
    "added": lambda blocks: blocks[-1][:, 0] + blocks[-2][:, 0],
    "by cat": lambda blocks: F.linear(torch.cat(blocks[-2:], -1), TWICE)[:, 0],
    "subtracted": lambda blocks: blocks[-1].flip(1)[:, -1] - blocks[-2][:, 0],
}


@OF_METHODS
@pytest.mark.parametrize("name", OF_TWO_BLOCKS)
def test_a_head_on_two_blocks_reads_both(name, method):
    """What of the earlier one comes through the later is not counted twice."""
    streams: list[Tensor] = []
    model = keeping_streams(lambda blocks: streams.extend(blocks) or OF_TWO_BLOCKS[name](blocks))
    found, blocks = found_and_blocks(model, pixels(), method)
    shares = shares_of(model, streams, OF_TWO_BLOCKS[name])
    expected = sum(
        (s[:, None, :] @ chain(blocks[: i + 1], method))[:, 0, 1:]
        for i, s in zip((1, 2), shares, strict=True)
    )
    torch.testing.assert_close(found.relevance, expected, rtol=1e-6, atol=1e-9)


def shares_of(model: Plain, streams: list[Tensor], read) -> list[Tensor]:
    """|sum_c R| at two streams, each an input of the head alone, over the sum of both: [B, N]."""

    class Head(nn.Module):
        def forward(self, earlier, later):
            return model.head(read([None, earlier, later]))

    inputs = {"earlier": streams[1].detach(), "later": streams[2].detach()}
    trace = relprop.record(Head(), inputs)
    R = trace.input_relevance(TARGET, "paper", 0.0)
    held = [R[name].sum(-1).abs() for name in inputs]
    total = sum(h.sum(1, keepdim=True) for h in held)
    return [h / total for h in held]


@OF_METHODS
def test_a_long_skip_is_counted_once(method):
    """As in a U-ViT, joined by cat: half of each stream."""
    streams = []

    def between(x):
        streams.append(x)
        if len(streams) % 3 == 2:
            return F.linear(torch.cat([x, streams[-2]], -1), TWICE)
        return x

    found, blocks = found_and_blocks(Plain(between=between), pixels(), method)
    first, second, third = (sum(step(C, method)) for C in blocks)
    skipped = torch.eye(N).double()
    expected = third @ ((second @ first) + skipped @ first) / 2
    assert_close(found.relevance, expected[:, 0, 1:])


@OF_METHODS
def test_a_stream_that_is_older_than_the_other_of_a_sum_is_not_counted_again(method):
    """x + a block's own output: the newer state has the older in it."""
    streams = []

    def between(x):
        streams.append(x)
        return x + streams[-3] if len(streams) % 3 == 0 else x

    found, blocks = found_and_blocks(Plain(between=between), pixels(), method)
    assert_close(found.relevance, chain(blocks, method)[:, 0, 1:])


class Pass(nn.Module):
    """A decoder over what an encoder makes of the same image."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = Plain().tokens
        self.coder = nn.Transformer(D, H, 1, 1, D, batch_first=True).double()

    def forward(self, x):
        x = self.tokens(x)
        return self.coder(x, x)[:, 0, :C]


@OF_METHODS
def test_cross_attention_takes_the_stream_of_its_keys(method):
    found, (encoder, own, cross) = found_and_blocks(Pass().eval(), pixels(), method)
    identity, C_x = step(cross, method)
    expected = identity @ sum(step(own, method)) + C_x @ sum(step(encoder, method))
    assert_close(found.relevance, expected[:, 0, 1:])


class Sum(nn.Module):
    """Of two passes."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.model = Plain(**options)

    def forward(self, x):
        return self.model(x) + self.model(x.flip(-1))


@OF_METHODS
def test_of_two_passes_over_a_picture_maps_are_of_pixels(method):
    found = relprop.explain(Sum(), pixels(), TARGET, method)
    assert found.grid == (12, 12)
    if method != "rollout":
        return
    x = pixels()
    one, two = (relprop.explain(Plain(), p, TARGET, method).relevance for p in (x, x.flip(-1)))
    one, two = (
        m.view(B, 3, 3).repeat_interleave(4, 1).repeat_interleave(4, 2) / 16 for m in (one, two)
    )
    both = torch.stack([one.flatten(1), two.flip(-1).flatten(1)], -1)
    share = torch.linalg.lstsq(both, found.relevance[..., None]).solution
    assert_close(found.relevance, (both @ share)[..., 0])
    torch.testing.assert_close(share.sum(1), torch.ones(B, 1).double())


@OF_METHODS
def test_of_two_passes_over_a_text_each_is_a_source(method):
    found = relprop.explain(Sum(text=True), ids(), TARGET, method)
    assert list(found.sources) == ["input", "input_2"]
    if method == "rollout":
        total = sum(x.relevance.sum(1) for x in found.sources.values())
        torch.testing.assert_close(total, torch.full((B,), 2.0).double())


def test_libra_sums_the_streams_of_the_upper_half_times_their_gradient():
    streams: list[Tensor] = []

    def between(x):
        streams.append(x)
        return x

    trace = relprop.record(Plain(between=between), pixels())
    found = relprop.explain_trace(trace, TARGET, "libra").relevance
    held = trace._read(streams, TARGET, "cp_lrp", 0.0)  # after the blocks 1, 2 and 3 of 3
    assert_close(found, sum(r.sum(-1) for r in held)[:, 1:])


def on_some(q, k, v):
    """Two attentions side by side of the patches 0 to 3 alone."""
    some = [x[:, :, 1:5] for x in (q, k, v)]
    attended = eager(*some)[0] + eager(some[1], some[0], some[2])[0]
    return F.pad(attended, (0, 0, 1, N - 5)), None


@pytest.mark.parametrize("method", ["raw_attention", "partial_lrp", "last_block"])
def test_tokens_that_no_attention_comes_to_have_no_map_of_it(method):
    model = Plain(attend=on_some, read=lambda x: x.mean(1))
    found = relprop.explain(model, pixels(), TARGET, method).relevance
    assert found.isfinite().all() and found[:, :4].any() and not found[:, 4:].any()


@pytest.mark.parametrize("method", ["rollout", "raw_attention"])
def test_channels_that_are_padded_before_a_convolution(method):
    kernel = torch.randn(D, D + 4, 3, generator=torch.Generator().manual_seed(0)).double()

    def between(x):
        return x + F.conv1d(F.pad(x.mT, (1, 1, 2, 2)), kernel).mT

    found = relprop.explain(Plain(between=between), pixels(), TARGET, method).relevance
    assert found.std() > 0 and (found.sum(1) <= 1 + 1e-9).all()
