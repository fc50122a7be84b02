"""However a model spells its operations, its maps are the same."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import relprop
from relprop import UnsupportedModel
from tests.helpers.plain import (
    B,
    C,
    D,
    H,
    N,
    Plain,
    assert_same,
    autograd_gradients,
    everything,
    fused,
    pixels,
)


def scaled_query(q, k, v):
    attention = torch.softmax(torch.matmul(q * (D // H) ** -0.5, k.mT), -1)
    return torch.matmul(attention, v), attention


def by_einsum(q, k, v):
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) * (D // H) ** -0.5
    attention = F.softmax(scores, dim=3)
    return torch.einsum("bhnm,bhmd->bhnd", attention, v), attention


def by_einsum_with_ellipses(q, k, v):
    scores = torch.einsum("... n d, ... m d -> ... n m", q, k) * (D // H) ** -0.5
    attention = F.softmax(scores, dim=-1)
    return torch.einsum("b...nm,b...md->b...nd", attention, v), attention


def by_einsum_of_tokens_first(q, k, v):
    """V as [B, N, H, d], in which it comes out of its layer."""
    attention = (q @ k.mT / math.sqrt(D // H)).softmax(-1)
    return torch.einsum("bhij,bjhd->bhid", attention, v.transpose(1, 2)), attention


def by_bmm(q, k, v):
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    attention = F.dropout((torch.bmm(q, k.mT) / math.sqrt(D // H)).softmax(-1), training=False)
    return torch.bmm(attention, v).unflatten(0, (-1, H)), attention


def by_baddbmm(q, k, v):
    """As BLOOM has it: a constant of all heads, and scores, each with a factor."""
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    constant = torch.full((1, 1, 1), math.nan).double()  # which counts 0 times
    scores = torch.baddbmm(constant, q, k.mT, beta=0, alpha=1 / math.sqrt(D // H))
    attention = scores.softmax(-1)
    return torch.bmm(attention, v).unflatten(0, (-1, H)), attention


def fused_without_scale(q, k, v):
    return fused(q * (D // H) ** -0.5, k, v, scale=1.0)


@pytest.mark.parametrize(
    "attend",
    [
        *(scaled_query, by_einsum, by_einsum_with_ellipses, by_einsum_of_tokens_first, by_bmm),
        *(by_baddbmm, fused, fused_without_scale),
    ],
)
def test_spellings_of_attention(attend):
    assert_same(everything(Plain(attend=attend), pixels()), everything(Plain(), pixels()))


def in_place_operator(x, y):
    x += y
    return x


def in_place_unbound(x, y):
    x.add_(y)
    return x


def in_place_twice(x, y):
    also_x = x.add_(y, alpha=0.5)
    x.add_(y, alpha=0.5)
    return also_x


def into_a_buffer(x, y):
    buffer = torch.zeros_like(x.detach())
    buffer[...] = x
    return buffer + y


@pytest.mark.parametrize("add", [in_place_operator, in_place_unbound, into_a_buffer])
def test_additions_in_place(add):
    assert_same(everything(Plain(add=add), pixels()), everything(Plain(), pixels()))


def of_mlp(add):
    """``add`` of x and the MLP; x + attention as usual."""
    calls = []

    def either(x, y):
        calls.append(y)
        return x + y if len(calls) % 2 else add(x, y)

    return either


def flat(x, y):
    """Of the tokens of all samples, one after the other, as OPT adds its MLP."""
    return (x.reshape(-1, D) + y.flatten(0, 1)).view(x.shape)


@pytest.mark.parametrize("batch", [1, B])
def test_additions_of_tokens_of_all_samples(batch):
    inputs, target = pixels(batch), torch.arange(batch) % C
    trace, usual = (relprop.record(m, inputs) for m in (Plain(add=of_mlp(flat)), Plain()))
    for rules in ("paper", "lrp"):
        found, expected = (
            torch.stack(t.relevance(target, rules=rules, eps=0.0)) for t in (trace, usual)
        )
        assert expected.std() > 0
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    for method in ("transformer_attribution", "rollout", "lrp", "attnlrp"):
        maps = (relprop.explain_trace(t, target, method).relevance for t in (trace, usual))
        torch.testing.assert_close(*maps, rtol=1e-9, atol=1e-12)


def flat_by_token(x, y):
    x, y = (z.transpose(0, 1).flatten(0, 1) for z in (x, y))
    return (x + y).unflatten(0, (N, -1)).transpose(0, 1)


def flat_and_moved(x, y):
    x, y = (z.flatten(0, 1).roll(1, 0) for z in (x, y))
    return (x + y).roll(-1, 0).unflatten(0, (-1, N))


def flat_and_turned(x, y):
    """[D, B N], in which samples are not first."""
    turned = (torch.einsum("rd,de->er", z.flatten(0, 1), torch.eye(D).double()) for z in (x, y))
    x, y = (F.linear(z, torch.eye(B * N).double()) for z in turned)
    return (x + y).mT.unflatten(0, (-1, N))


@pytest.mark.parametrize(
    "add, batch",
    [(flat_by_token, B), (flat_by_token, N), (flat_and_moved, B), (flat_and_turned, B)],
)
def test_additions_of_tokens_of_samples_in_another_order_are_refused(add, batch):
    """The rule of a sum shares relevance out in each sample. As many as tokens may be either."""
    with pytest.raises(UnsupportedModel, match="a sum of two streams of shape .* batch first"):
        relprop.explain(Plain(add=of_mlp(add)), pixels(batch), 1, "lrp", rules="paper")


def test_addition_in_place_to_a_tensor_of_two_names():
    def twice(x, y):
        return torch.add(torch.add(x, y, alpha=0.5), y, alpha=0.5)

    assert_same(
        everything(Plain(add=in_place_twice), pixels()), everything(Plain(add=twice), pixels())
    )


def test_rows_written_in_place():
    def written(x):
        x = x.clone()
        x[:, :4] = x[:, :4].relu()
        x[:, 4:] = x[:, 3:-1]
        return x

    def usual(x):
        x = torch.cat([x[:, :4].relu(), x[:, 4:]], 1)
        return torch.cat([x[:, :4], x[:, 3:-1]], 1)

    found = everything(Plain(between=written), pixels())
    assert_same(found, everything(Plain(between=usual), pixels()))


def by_index(x):
    return torch.arange(x.shape[1])[None, :, None].expand(len(x), -1, D)


FIRST = torch.arange(N)[None, :, None] < 4
PUT = {  # the first four tokens, others in the place of what was there
    "masked_scatter": lambda x, y: x.masked_scatter(FIRST.expand_as(x), y[:, :4]),
    "masked_scatter_": lambda x, y: x.clone().masked_scatter_(FIRST.expand_as(x), y[:, :4]),
    "scatter": lambda x, y: x.scatter(1, by_index(y[:, :4]), y[:, :4]),
    "index_copy": lambda x, y: x.index_copy(1, torch.arange(4), y[:, :4]),
    "index_put": lambda x, y: x.index_put((torch.arange(B)[:, None], torch.arange(4)), y[:, :4]),
    "slice_scatter": lambda x, y: x.slice_scatter(y[:, :4], 1, 0, 4),
    "select_scatter": lambda x, y: torch.select_scatter(
        PUT["slice_scatter"](x, torch.cat([y[:, :3], x[:, 3:]], 1)), y[:, 3], 1, 3
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUT)
def test_tokens_that_are_put_in_the_place_of_others(name):
    def put(x):
        return PUT[name](x, x.relu())

    def usual(x):
        return torch.cat([x[:, :4].relu(), x[:, 4:]], 1)

    assert_same(
        everything(Plain(between=put), pixels()), everything(Plain(between=usual), pixels())
    )


ROWS, FOUR = torch.arange(B)[:, None], torch.arange(4)
ADDED = {
    "accumulate": lambda x: x.index_put((ROWS, FOUR), x[:, :4].relu(), accumulate=True),
    "accumulate, by position": lambda x: x.index_put((ROWS, FOUR), x[:, :4].relu(), True),
    "reduce": lambda x: x.scatter(1, by_index(x[:, :4]), x[:, :4].relu(), reduce="add"),
}


@pytest.mark.filterwarnings("ignore:The reduce argument")
@pytest.mark.parametrize("name", ADDED)
def test_tokens_that_are_added_to_others_are_no_move(name):
    with pytest.raises(UnsupportedModel, match="no relevance rule for .* as called here"):
        relprop.explain(Plain(between=ADDED[name]), pixels(), 1)


def test_an_einsum_of_attention_values_and_a_gate():
    """Three streams in one call."""

    def gated(q, k, v):
        attention = (q @ k.mT / math.sqrt(D // H)).softmax(-1)
        return torch.einsum("bhnm,bhmd,bhnd->bhnd", attention, v, q), attention

    model, target = Plain(attend=gated), torch.arange(3)
    trace = relprop.record(model, pixels())
    expected = autograd_gradients(model, pixels())
    torch.testing.assert_close(trace.gradient(target), expected)
    assert relprop.explain_trace(trace, target).relevance.std() > 0


def test_attention_map_used_twice_is_one_block():
    def in_halves(q, k, v):
        attention = (q @ k.mT / math.sqrt(D // H)).softmax(-1)
        return torch.cat([attention @ v[..., :3], attention @ v[..., 3:]], -1), attention

    assert_same(everything(Plain(attend=in_halves), pixels()), everything(Plain(), pixels()))


@pytest.mark.parametrize(
    "in_place, usual",
    [
        (lambda x: F.relu(x, inplace=True), F.relu),
        (nn.ReLU(inplace=True), F.relu),
        (torch.relu_, F.relu),
        (lambda x: x.mul_(0.5).tanh_(), lambda x: torch.tanh(x * 0.5)),
        (lambda x: F.relu(x.unsqueeze_(1).squeeze_(1)), F.relu),
        (lambda x: nn.Dropout(0.5, inplace=True).eval()(F.relu(x)), F.relu),
        (lambda x: F.dropout(F.relu(x), 0.5, False, inplace=True), F.relu),
    ],
)
def test_activations_in_place(in_place, usual):
    found = everything(Plain(activate=in_place), pixels())
    assert_same(found, everything(Plain(activate=usual), pixels()))


def test_value_written_in_place_is_seen_under_no_grad():
    def threshold(x):
        x.sub_(0.5)
        with torch.no_grad():
            positive = x > 0
        return x * positive

    usual = everything(Plain(activate=lambda x: (x - 0.5) * (x > 0.5)), pixels())
    assert_same(everything(Plain(activate=threshold), pixels()), usual)


@pytest.mark.parametrize(
    "alias",
    [
        lambda x: (x.view(-1), x.add_(1))[0].view_as(x),
        lambda x: (x[:, :4], x.mul_(2))[0].repeat(1, 2, 1)[:, : x.shape[1]] + x,
        lambda x: (x[:, :4].add_(1), x)[1],
    ],
    ids=["view", "slice", "slice written to"],
)
def test_alias_of_what_is_written_in_place_is_refused(alias):
    with pytest.raises(UnsupportedModel, match="another view of its memory"):
        relprop.record(Plain(between=alias), pixels())


def by_hand(weights):
    """Attention with ``weights`` of the scores."""

    def attend(q, k, v):
        attention = weights(q @ k.mT / math.sqrt(D // H))
        return attention @ v, attention

    return attend


def over_sum(e):
    return e / e.sum(-1, keepdim=True)


def causal(z):
    return z.masked_fill(torch.ones(N, N).tril() == 0, -math.inf)


SOFTMAXES = {
    "exp / sum": lambda z: over_sum(z.exp()),
    "largest subtracted": lambda z: over_sum(torch.exp(z - z.amax(-1, keepdim=True))),
    "largest and its place": lambda z: over_sum((z - z.max(dim=-1, keepdim=True).values).exp()),
    "with a small number": lambda z: (e := z.exp()) / (e.sum(dim=-1, keepdim=True) + 0.0),
    "masked": lambda z: over_sum(causal(z).exp()),
    "masked afterwards": lambda z: over_sum(z.exp().masked_fill(causal(z).isneginf(), 0)),
}


@pytest.mark.parametrize("name", SOFTMAXES)
def test_a_softmax_written_by_hand_has_the_rules_of_one(name):
    usual = by_hand(lambda z: F.softmax(causal(z) if "masked" in name else z, dim=-1))
    trace = relprop.record(Plain(attend=by_hand(SOFTMAXES[name])), pixels())
    expected = relprop.record(Plain(attend=usual), pixels())
    for method in ("attnlrp", "cp_lrp", "lrp", "rollout", "transformer_attribution"):
        found, e = (relprop.explain_trace(t, 1, method).relevance for t in (trace, expected))
        torch.testing.assert_close(found, e, rtol=1e-8, atol=1e-10 * float(e.abs().max()))


UNNORMALISED = {
    "sigmoid": torch.sigmoid,
    "relu": lambda z: F.relu(z) / N,
    "relu, normalised": lambda z: over_sum(F.relu(z) + 0.1),
    "exp": lambda z: z.exp() / N,
    "norm of 1": lambda z: F.normalize(z.exp(), p=1, dim=-1),
    "by a reciprocal": lambda z: (e := z.exp()) * e.sum(-1, keepdim=True).reciprocal(),
}


@pytest.mark.parametrize("name", UNNORMALISED)
def test_attention_without_a_softmax_is_a_constant_in_cp_lrp(name):
    weights = UNNORMALISED[name]
    model, held = (Plain(attend=by_hand(w)) for w in (weights, lambda z: weights(z.detach())))
    found, expected = (relprop.explain(m, pixels(), 1, "cp_lrp").relevance for m in (model, held))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    if "exp" in name or "norm of" in name or "reciprocal" in name:
        with pytest.raises(UnsupportedModel, match="an exponential of scores times values"):
            relprop.explain(model, pixels(), 1, "attnlrp")


def test_linear_attention_is_refused_by_cp_lrp():
    """Nothing in it is a constant, so that each factor would have all relevance."""
    for attend in (by_hand(lambda z: z / N), lambda q, k, v: (q @ (k.mT @ v) / N, None)):
        model = Plain(attend=attend)
        with pytest.raises(UnsupportedModel, match="linear attention, scores times values"):
            relprop.explain(model, pixels(), 1, "cp_lrp")
        assert relprop.explain(model, pixels(), 1, "attnlrp").relevance.std() > 0


POOLS = {
    "softmax": lambda w: w.softmax(1),
    "in another shape": lambda w: w[..., 0].softmax(1)[..., None],
    "expanded": lambda w: w.softmax(1).expand(-1, -1, D),
    "sigmoid": torch.sigmoid,
    "sigmoid in another shape": lambda w: w.sigmoid().transpose(1, 2).mT,
}


@pytest.mark.parametrize("name", POOLS)
def test_weights_of_pooling_are_constants_in_cp_lrp(name):
    """Out of a softmax or another activation, whatever their shape is then."""
    weigh = torch.randn(D, generator=torch.Generator().manual_seed(0)).double()

    def pool(hold):
        return lambda x: (hold(POOLS[name]((x * weigh).sum(-1, keepdim=True))) * x).sum(1)

    models = [Plain(read=pool(hold)) for hold in (lambda a: a, torch.detach)]
    found, expected = (relprop.explain(m, pixels(), 1, "cp_lrp").relevance for m in models)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def rms(x):
    return torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-6)


NORMS = {
    "x / rms": lambda x: x / rms(x),
    "x (1 / rms)": lambda x: x * (1 / rms(x)),
    "x (1 / rms), divided": lambda x: x * torch.div(1, rms(x)),
    "x reciprocal(rms)": lambda x: x * rms(x).reciprocal(),
    "x true_divide rms": lambda x: torch.true_divide(x, rms(x)),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("method", ["attnlrp", "cp_lrp", "lrp"])
def test_spellings_of_a_norm_by_the_root_mean_square(name, method):
    found = relprop.explain(Plain(between=NORMS[name]), pixels(), 1, method).relevance
    plain = Plain(between=lambda x: F.rms_norm(x, (D,), eps=1e-6))
    torch.testing.assert_close(found, relprop.explain(plain, pixels(), 1, method).relevance)
