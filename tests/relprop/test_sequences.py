"""Inputs that are vectors, sequences of vectors, or texts with tokens of the model's own."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from relprop import UnsupportedModel
from relprop.rules import linear_signwise
from tests.helpers import methods
from tests.helpers.methods import OF_ALL_INPUTS
from tests.helpers.plain import B, C, D, N, Plain, ids

METHODS = pytest.mark.parametrize("method", OF_ALL_INPUTS)
OF_TEXTS = pytest.mark.parametrize("method", methods.OF_TEXTS)
TARGET = torch.arange(B)
ENTRIES, F_ = N - 1, 20  # as many as Plain has patches beside its class token; numbers of each


def numbers(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, *shape, dtype=torch.float64, generator=generator)


def layer_of(features: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(D, features, generator=generator).double()
    return weight, torch.randn(D, generator=generator).double()


def embedding(read, features: int, prefix: bool = True, kept: list | None = None) -> Plain:
    """A model that embeds what ``read`` makes of its input: [B, 9, features]."""

    def tokens(self, x):
        x = F.linear(read(x), *layer_of(features))
        if kept is not None:
            kept.append(x)
        if not prefix:
            return x + self.position[:, 1:]
        return torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1) + self.position

    return Plain(tokens=tokens)


# Of the same numbers: an input, and how a model reads from it [B, 9, 1].
VECTORS = {
    "[B, N]": (numbers(ENTRIES), lambda x: x.unsqueeze(-1)),
    "[B, N, 1]": (numbers(ENTRIES)[..., None], lambda x: x),
    "[B, 1, N]": (numbers(ENTRIES)[:, None], lambda x: x.transpose(1, 2)),
    "[B, N], indexed": (numbers(ENTRIES), lambda x: x[:, :, None]),
    "[B, N], scaled": (numbers(ENTRIES) * 4 + 1, lambda x: ((x - 1) / 4).view(-1, ENTRIES, 1)),
}
# Of the same numbers: an input, and how a model reads from it [B, 9, 20].
SEQUENCES = {
    "[B, N, F]": (numbers(ENTRIES, F_), lambda x: x),
    "[B, F, N]": (numbers(ENTRIES, F_).mT.contiguous(), lambda x: x.transpose(1, 2)),
    "[B, N F]": (numbers(ENTRIES, F_).flatten(1), lambda x: x.unfold(1, F_, F_)),
    "[B, N, F, 1, 1]": (numbers(ENTRIES, F_)[..., None, None], lambda x: x.flatten(2)),
    "[B N, F] within": (
        numbers(ENTRIES, F_), lambda x: x.flatten(0, 1).unflatten(0, (B, ENTRIES))
    ),
}  # fmt: skip


@functools.lru_cache(maxsize=1)  # which all methods are asked of
def recorded(name: str) -> tuple[relprop.Trace, relprop.Trace]:
    """A model that reads its numbers from an input, and one that is given them."""
    x, read = (VECTORS | SEQUENCES)[name]
    features = 1 if name in VECTORS else F_
    model, plain = embedding(read, features), embedding(lambda x: x, features)
    return relprop.record(model, x), relprop.record(plain, read(x).contiguous())


@METHODS
@pytest.mark.parametrize("name", VECTORS | SEQUENCES)
def test_however_numbers_are_given_their_map_is_the_same(name, method):
    found, expected = (relprop.explain_trace(trace, TARGET, method) for trace in recorded(name))
    assert found.relevance.shape == (B, ENTRIES) and found.grid is None
    torch.testing.assert_close(found.relevance, expected.relevance)


@pytest.mark.parametrize("read, shape", [(lambda x: x[..., None], ()), (lambda x: x, (F_,))])
def test_maps_are_of_the_tokens_that_hold_the_numbers(read, shape):
    """Not of the class token; of pixel methods what arrives below the layer that embeds them."""
    model, x = embedding(read, F_ if shape else 1), numbers(ENTRIES, *shape)
    trace = relprop.record(model, x)
    assert (trace.grid, trace.prefix, trace.tokens) == (None, 1, N)
    for method in OF_ALL_INPUTS:
        found = relprop.explain_trace(trace, TARGET, method).relevance
        options = relprop.Options()
        of_tokens = relprop.METHODS[method](trace, TARGET, options)
        if relprop.METHODS[method].pixels:
            source = trace.source_relevance(TARGET, relprop.METHODS[method].rules)
            assert source.shape == x.shape
            of_tokens = source.view(B, ENTRIES, -1).sum(-1)
        elif of_tokens.shape[1] == N:
            of_tokens = of_tokens[:, 1:]
        assert found.shape == (B, ENTRIES) and torch.equal(found, of_tokens), method


def network(*first: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*first, nn.Linear(8, C)).double().eval()


class Mean(nn.Module):
    """Of all places: [B, C, ...] -> [B, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(-1)


class Flip(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(-1)


# Models without attention, their inputs, and what is summed of the relevance of these.
WITHOUT_ATTENTION = {
    "vectors": (lambda: [nn.Linear(4, 8), nn.ReLU()], (4,), ()),
    "vectors that are normalised": (lambda: [nn.BatchNorm1d(4), nn.Linear(4, 8)], (4,), ()),
    "sequences": (lambda: [nn.Conv1d(2, 8, 3), nn.ReLU(), Mean()], (2, 7), (1,)),
    "sequences, padded": (lambda: [nn.Conv1d(2, 8, 3, padding=1), nn.ReLU(), Mean()], (2, 7), (1,)),
    "sequences, strided": (lambda: [nn.Conv1d(2, 8, 3, 2), nn.ReLU(), Mean()], (2, 7), (1,)),
    "sequences, turned around": (
        lambda: [Flip(), nn.Conv1d(2, 8, 3, padding=1), nn.ReLU(), Mean()], (2, 7), (1,)
    ),
    "pictures": (lambda: [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), Mean()], (3, 5, 6), (1,)),
}  # fmt: skip


@pytest.mark.parametrize("method", ["attnlrp", "cp_lrp", "lrp"])
@pytest.mark.parametrize("level", ["tokens", "input"])
@pytest.mark.parametrize("name", WITHOUT_ATTENTION)
def test_without_attention_relevance_is_that_of_each_number_pixel_or_place(name, method, level):
    layers, shape, summed = WITHOUT_ATTENTION[name]
    torch.manual_seed(0)
    trace = relprop.record(network(*layers()), numbers(*shape))
    found = relprop.explain_trace(trace, TARGET, method, level=level).relevance
    expected = trace.source_relevance(TARGET, relprop.METHODS[method].rules)
    expected = expected.sum(summed) if summed else expected
    torch.testing.assert_close(found, expected.flatten(1))
    assert (found.std(dim=1) > 0).all()


@METHODS
def test_a_vector_of_which_each_token_has_all_numbers_has_no_flat_map(method):
    weight = torch.randn(ENTRIES * D, 4, generator=torch.Generator().manual_seed(2)).double()

    def tokens(self, x):
        return F.linear(x, weight).unflatten(1, (ENTRIES, D)) + self.position[:, 1:]

    trace = relprop.record(Plain(tokens=tokens), numbers(4))
    if method in ("attnlrp", "cp_lrp") or relprop.METHODS[method].pixels:
        found = relprop.explain_trace(trace, TARGET, method).relevance
        expected = trace.source_relevance(TARGET, relprop.METHODS[method].rules)
        torch.testing.assert_close(found, expected)
        return
    with pytest.raises(UnsupportedModel, match="mixes all numbers of a vector .*accepted: attnlrp"):
        relprop.explain_trace(trace, TARGET, method)


def test_lrp_of_a_vector_is_that_of_its_rule():
    x, embedded = numbers(ENTRIES), []
    trace = relprop.record(embedding(lambda x: x[..., None], 1, kept=embedded), x)
    (arriving,) = trace._read(embedded, TARGET, "lrp", 0.0)
    expected = linear_signwise(arriving, None, x[..., None], *layer_of(1), eps=0.0).sum(-1)
    found = relprop.explain_trace(trace, TARGET, "lrp", eps=0.0)
    torch.testing.assert_close(found.relevance, expected)


@METHODS
def test_without_a_class_token(method):
    model = embedding(lambda x: x[..., None], 1, prefix=False)
    found = relprop.explain(model, numbers(ENTRIES), TARGET, method)
    assert found.relevance.shape == (B, ENTRIES)


@METHODS
def test_a_sequence_that_the_model_turns_around(method):
    """Relevance is of the entry of the caller's sequence, whichever token holds it."""
    x = numbers(ENTRIES, F_)
    found = relprop.explain(embedding(lambda x: x.flip(1), F_), x, TARGET, method)
    expected = relprop.explain(embedding(lambda x: x, F_), x.flip(1), TARGET, method)
    torch.testing.assert_close(found.relevance, expected.relevance.flip(1))


@METHODS
def test_a_sequence_less_its_mean(method):
    x = numbers(ENTRIES, F_)

    def read(x):
        return x - x.mean(1, keepdim=True)

    found = relprop.explain(embedding(read, F_), x, TARGET, method)
    expected = relprop.explain(embedding(lambda x: x, F_), read(x), TARGET, method)
    assert found.relevance.shape == (B, ENTRIES)
    torch.testing.assert_close(found.relevance, expected.relevance)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_a_sequence_less_its_mean_where_torch_looks_for_nan():
    model = embedding(lambda x: x - x.mean(1, keepdim=True), F_)
    expected = relprop.explain(model, numbers(ENTRIES, F_), TARGET)
    with torch.autograd.detect_anomaly():
        found = relprop.explain(model, numbers(ENTRIES, F_), TARGET)
    assert torch.equal(found.relevance, expected.relevance)


@METHODS
def test_vectors_that_go_into_the_blocks_as_they_are(method):
    """Their first layer is that of the first block's queries, keys and values."""
    x = numbers(N, D)
    found = relprop.explain(Plain(tokens=lambda self, x: x), x, TARGET, method)
    assert found.relevance.shape == (B, N) and found.relevance.std() > 0

    def identity(self, x):
        return F.linear(x, torch.eye(D).double())

    same = relprop.explain(Plain(tokens=identity), x, TARGET, method)
    if not relprop.METHODS[method].pixels:
        torch.testing.assert_close(found.relevance, same.relevance)


@OF_TEXTS
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_class_token_of_a_text_is_no_word(method, before):
    """Tokens that a model adds, as prompts are, have no relevance of the input's."""

    def tokens(self, x, words=None):
        words = self.embed(x)
        own = self.position[:, :1].expand(len(words), -1, -1)
        return torch.cat([own, words] if before else [words, own], dim=1)

    place = 0 if before else -1
    model = Plain(text=True, tokens=tokens, read=lambda x: x[:, place])
    trace = relprop.record(model, ids()[:, : N - 1])
    assert trace.tokens == N and trace.prefix == int(before)
    found = relprop.explain_trace(trace, TARGET, method).relevance
    assert found.shape == (B, N - 1)
    of_tokens = relprop.METHODS[method](trace, TARGET, relprop.Options())
    if relprop.METHODS[method].pixels:
        source = trace.source_relevance(TARGET, relprop.METHODS[method].rules)
        of_tokens = trace.places.of_source(source)
    expected = of_tokens if of_tokens.shape[1] == N - 1 else of_tokens[:, before:][:, : N - 1]
    assert torch.equal(found, expected)


GATES = {
    "of the text": lambda x: F.linear(x.mean(1, keepdim=True), torch.ones(D, D).double()),
    "of each word": lambda x: F.linear(x, torch.ones(D, D).double()),
    "of each word and its place": lambda x: F.linear(x + table(), torch.ones(D, D).double()),
}


def table() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(4)).double()


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("text", [True, False], ids=["text", "sequence"])
def test_a_first_layer_that_is_a_side_branch_is_not_where_relevance_ends(name, text):
    """All goes through the embeddings themselves."""
    embeddings = []

    def tokens(self, x):
        x = self.embed(x) if text else x
        embeddings.append(x)
        return x * GATES[name](x).sigmoid() + self.position

    model, x = Plain(text, tokens=tokens), ids() if text else numbers(N, D)
    trace = relprop.record(model, x)
    (arriving,) = trace._read(embeddings, TARGET, "lrp", 0.0)
    found = relprop.explain_trace(trace, TARGET, "lrp", eps=0.0)
    torch.testing.assert_close(found.relevance, arriving.sum(-1))


@pytest.mark.parametrize("look_up", [lambda ids, W: W[ids], lambda ids, W: F.one_hot(ids, 20) @ W])
def test_ids_that_are_looked_up_by_other_means_are_refused(look_up):
    def tokens(self, x):
        return look_up(x, self.embed.weight.long()).double() + self.position

    with pytest.raises(UnsupportedModel, match="no embedding of the ids was seen; accepted: "):
        relprop.explain(Plain(text=True, tokens=tokens), ids())


@METHODS
def test_words_in_another_order_are_followed(method):
    model = Plain(text=True, tokens=lambda self, x: Plain.tokens(self, x).flip(1))
    if method == "gradcam":
        with pytest.raises(UnsupportedModel, match="the 10 tokens of the input are not the last"):
            relprop.explain(model, ids(), 1, method)
        return
    found = relprop.explain(model, ids(), 1, method).relevance
    tokens = []
    trace = relprop.record(model, ids())
    for i in range(N):  # the weight of a token is what is moved with it
        tokens.append(found[:, i])
    assert found.std() > 0 and trace.attention[0].shape[-1] == len(tokens)


def test_there_is_no_heatmap_of_a_vector():
    found = relprop.explain(embedding(lambda x: x[..., None], 1), numbers(ENTRIES))
    with pytest.raises(ValueError, match="no grid of patches .*the input is no picture"):
        found.heatmap(8)


class Beside(nn.Module):
    """Numbers beside a text, whose tokens come first."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Plain(text=True, tokens=lambda self, x: x)
        self.project = nn.Linear(F_, D).double()

    def forward(self, input_ids: Tensor, visual_embeds: Tensor) -> Tensor:
        words, seen = self.model.embed(input_ids), self.project(visual_embeds)
        return self.model(torch.cat([words, seen], dim=1))


@METHODS
def test_a_text_beside_numbers_has_a_map_of_each(method):
    inputs = {"input_ids": ids()[:, :4], "visual_embeds": numbers(6, F_)}
    if method == "gradcam":
        with pytest.raises(UnsupportedModel, match="the model has 2 sources .*and this is of one"):
            relprop.explain(Beside(), inputs, 1, method)
        return
    found = relprop.explain(Beside(), inputs, 1, method)
    shapes = {name: x.relevance.shape for name, x in found.sources.items()}
    assert shapes == {"input_ids": (B, 4), "visual_embeds": (B, 6)}
    with pytest.raises(AttributeError, match=r"of 2 sources .*accepted: explanation\.sources\["):
        _ = found.relevance


def test_a_vector_beside_a_text():
    """One number more than words: it is a token, too."""

    class Number(Beside):
        def forward(self, input_ids: Tensor, number: Tensor) -> Tensor:
            return super().forward(input_ids, number[:, None])

    inputs = {"input_ids": ids()[:, :9], "number": numbers(F_)}
    found = relprop.explain(Number(), inputs, 1)
    assert found.sources["input_ids"].relevance.shape == (B, 9)
    assert relprop.record(Number(), inputs).logits.shape == (B, C)
