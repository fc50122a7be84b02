"""What has no right map is refused, in words."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import relprop
from relprop import UnsupportedModel, rules
from tests.helpers.plain import B, C, D, H, N, Plain, eager, ids, pixels


def heads_first_bmm(q, k, v):
    """[H * B, N, N]: the batch is not the slow dimension."""
    q, k, v = (x.transpose(0, 1).flatten(0, 1) for x in (q, k, v))
    attention = (torch.bmm(q, k.mT) / math.sqrt(D // H)).softmax(-1)
    return torch.bmm(attention, v).unflatten(0, (H, -1)).transpose(0, 1), attention


class Square(torch.autograd.Function):
    """Its forward pass is no torch function: the recorder cannot see it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(144, C).double()

    def forward(self, x):
        return self.linear(x.mean(1).flatten(1))


class Unpooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Plain(read=lambda x: x)

    def forward(self, x):
        return self.model(x)


class Outputs(nn.Module):
    """What a model returns is up to ``made``."""

    def __init__(self, made) -> None:
        super().__init__()
        self.model, self.made = Plain(), made

    def forward(self, x):
        return self.made(self.model(x))


def hooked(model):
    model.blocks[1].fc1.register_full_backward_hook(lambda *_: None)
    return model


def over_queries(q, k, v):
    attention = (k @ q.mT).softmax(dim=-2)
    return torch.einsum("bhmn,bhmd->bhnd", attention, v), attention


def constant_values(q, k, v):
    scores = (q @ k.mT).softmax(-1)
    return scores @ v.detach(), scores


def sigmoids(q, k, v):
    attention = torch.sigmoid(q @ k.mT / math.sqrt(D // H))
    return attention @ v, attention


TO_D = torch.randn(D, D, generator=torch.Generator().manual_seed(0)).double()

TO_2D = torch.cat([TO_D, TO_D.T])[:, :C]


class Pipeline(nn.Module):
    """Its last layer is not seen."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.model = Plain(**options)
        self.last = torch.jit.script(nn.Linear(C, C).double())

    def forward(self, x):
        return self.last(self.model(x))


def tokens_first(self, x):
    return Plain.tokens(self, x).transpose(0, 1)


def attend_tokens_first(q, k, v):
    y, attention = eager(*(x.transpose(0, 2) for x in (q, k, v)))
    return y.transpose(0, 2), attention


def attend_samples(q, k, v):
    """Among all samples and heads, token by token."""
    q, k, v = (x.permute(2, 0, 1, 3).flatten(1, 2) for x in (q, k, v))  # [N, B H, d]
    y, attention = eager(q, k, v)
    return y.unflatten(1, (B, H)).permute(1, 2, 0, 3), attention


class Detached(Plain):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


def scaled_layer(x):
    bias = torch.zeros(D).double()
    return torch.addmm(bias, x.flatten(0, 1), TO_D, alpha=2).view(x.shape)


OWN_STATISTICS = nn.BatchNorm1d(D, track_running_stats=False).double()
TOKENS_FIRST = {
    "tokens": tokens_first, "attend": attend_tokens_first, "read": lambda x: x[0]
}  # fmt: skip
REFUSED = {
    "custom autograd.Function": (Plain(activate=Square.apply), "not a torch function"),
    "checkpointed by itself": (
        Plain(between=lambda x: checkpoint(F.relu, x, use_reentrant=True)),
        "not a torch function",
    ),
    "checkpointed by itself, not reentrant": (
        Plain(between=lambda x: checkpoint(F.linear, x, TO_D, use_reentrant=False)),
        "checkpoints its activations",
    ),
    "no attention": (Mixer(), "no attention map was seen"),
    "features and logits": (
        Outputs(lambda logits: (logits.repeat(1, 2), logits)),
        r"returns \[3, 8\] and \[3, 4\]: which of them",
    ),
    "full backward hook": (hooked(Plain()), "a full backward hook"),
    "no logits": (Unpooled(), r"the model returns \[3, 10, 4\]; accepted: logits"),
    "softmax over queries": (Plain(attend=over_queries), "over dimension -2"),
    "no softmax": (Plain(attend=sigmoids), "no attention map was seen"),
    "constant values": (Plain(attend=constant_values), r"map 0, \[3, 2, 10, 10\], are constants"),
    "heads before the batch": (Plain(attend=heads_first_bmm), "batch of 3 is not first"),
    "tokens before the batch": (Plain(**TOKENS_FIRST), "for a batch of 3; accepted: batch first"),
    "scripted at the end": (Pipeline(), "not a torch function"),
    "between samples": (
        Plain(attend=attend_samples),
        r"maps of shape \[10, 6, 6\] for a batch of 3",
    ),
    "without a graph": (Detached(), "do not depend on the input by torch functions"),
    "a norm over the batch": (
        Plain(between=lambda x: OWN_STATISTICS(x.mT).mT),
        "no relevance rule for .*batch_norm",
    ),
    "a scaled layer": (Plain(between=scaled_layer), "no relevance rule for torch.addmm"),
}
TEXTS_REFUSED = {"scripted at the end": (Pipeline(text=True), "not a torch function")}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    model, message = REFUSED[name]
    with pytest.raises(UnsupportedModel, match=message):
        relprop.explain(model, pixels())


@pytest.mark.parametrize(
    "made", [lambda x: (x,), lambda x: (x.sum(), x), lambda x: [x, x[:, None]]]
)
def test_logits_in_a_tuple(made):
    found = relprop.explain(Outputs(made), pixels(), 1).relevance
    assert torch.equal(found, relprop.explain(Plain(), pixels(), 1).relevance)


FEATURES = {
    "standard deviations over tokens": lambda x: x.std(1) @ TO_D[:, :C],
    "means and standard deviations": lambda x: torch.cat([x.mean(1), x.std(1)], 1) @ TO_2D,
    "variances": lambda x: x.var(1) @ TO_D[:, :C],
    "norms of tokens": lambda x: x.norm(dim=-1)[:, :C],
    "distances from prototypes": lambda x: -(x[:, 0][:, None] - TO_D[:C]).norm(dim=-1),
    "x by its norm, and its norm": lambda x: (
        (x / x.norm(dim=-1, keepdim=True)).mean(1) @ TO_D[:, :C] + x.norm(dim=-1).mean(1)[:, None]
    ),
}


@pytest.mark.parametrize("name", FEATURES)
def test_a_statistic_that_is_a_feature_is_refused(name):
    """Relevance would end there: maps of zeros, or of the other features alone."""
    model = Plain(read=FEATURES[name])
    model.head = nn.Identity()
    x = pixels()
    trace = relprop.record(model, x)
    for method in ("attnlrp", "cp_lrp", "lrp", "generic_attention"):
        with pytest.raises(UnsupportedModel, match="norm .* is used as a feature: .*accepted: "):
            relprop.explain_trace(trace, 1, method)
    with pytest.raises(UnsupportedModel, match="norm .* is used as a feature: .*accepted: "):
        relprop.explain_trace(trace, 1, "lrp", rules="epsilon")
    # What the message accepts.
    found = relprop.explain_trace(trace, 1, "attnlrp", rules=rules.GRADIENT, level="input")
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    torch.testing.assert_close(
        trace.input_relevance(torch.ones(len(x), dtype=torch.long), rules.GRADIENT), x * gradient
    )
    assert found.relevance.std() > 0


def test_a_rule_of_ones_own_takes_relevance_through_a_statistic():
    model = nn.Sequential(nn.Linear(4, C), Outputs(lambda x: x.norm(dim=-1, keepdim=True)))
    model[1].model = nn.Identity()
    x = torch.randn(2, 4)

    def share(relevance, output, input, *args, eps, **kwargs):
        return input**2 / output**2 * relevance

    own = rules.LRP | {"statistic": share}
    found = relprop.explain(model, x, 0, "lrp", rules=own, eps=0.0).relevance
    assert found.isfinite().all() and found.std() > 0


@pytest.mark.parametrize("name", TEXTS_REFUSED)
def test_refused_texts(name):
    model, message = TEXTS_REFUSED[name]
    with pytest.raises(UnsupportedModel, match=message):
        relprop.explain(model, ids())


def test_attention_map_used_again_in_a_later_block():
    kept = []

    def attend(q, k, v):
        kept.append(eager(q, k, v)[1]) if len(kept) < 1 else None
        return kept[0] @ v, kept[0]

    with pytest.raises(UnsupportedModel, match="used in a later block again"):
        relprop.explain(Plain(attend=attend), pixels())


def test_as_many_samples_as_tokens():
    """The shapes do not tell which dimension is the batch."""
    with pytest.raises(UnsupportedModel, match="the batch of 10 is not first"):
        relprop.explain(Plain(**TOKENS_FIRST), pixels(N))
    together = relprop.explain(Plain(), pixels(N)).relevance
    torch.testing.assert_close(together[:3], relprop.explain(Plain(), pixels(N)[:3]).relevance)


def test_rule_set_without_a_rule(tiny_vit, images):
    trace = relprop.record(tiny_vit(), images)
    own = {k: r for k, r in rules.PAPER.items() if k != "matmul"}
    with pytest.raises(UnsupportedModel, match="no rule for 'matmul'; it has: linear, "):
        trace.relevance(torch.zeros(3, dtype=torch.long), rules=own)
