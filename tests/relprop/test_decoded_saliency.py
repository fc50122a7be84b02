"""Decoding Layer Saliency: the reconstruction's steps, written out with loops."""

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

import relprop
from relprop import UnsupportedModel
from tests.helpers.differences import jittered, picture, text

TAU = 10


def slow(ids: Tensor, kept: Tensor, gradient: Tensor, logits: Tensor) -> Tensor:
    """Saliency of each position of one text: S_i, P_i, q_v and shares, position by position."""
    q: dict[int, float] = {}
    for G, z in zip(gradient, logits, strict=True):
        S, P = float(G.square().sum().sqrt()), z.softmax(dim=-1)
        for v in P.argsort(descending=True)[:TAU].tolist():
            q[v] = q.get(v, 0) + S * float(P[v])
    own = [int(v) for v, k in zip(ids, kept, strict=True) if k]
    found = [q.get(int(v), 0) / max(own.count(int(v)), 1) for v in ids]
    return torch.tensor(found, dtype=torch.float64) * kept


def case(kind: str = "Bert"):
    model, inputs = text(kind)
    inputs["input_ids"][0, :3] = 7  # one word at several places
    return model, inputs


def states_of(model, inputs, target: int, layer: int) -> tuple[Tensor, Tensor]:
    out = model(**inputs, output_hidden_states=True)
    h = out.hidden_states[layer]
    (G,) = torch.autograd.grad(out.logits[:, target].sum(), h)
    return h.detach(), G


def assert_is_slow(found: Tensor, inputs, G: Tensor, logits: Tensor) -> None:
    kept = inputs["attention_mask"].double()
    about = zip(inputs["input_ids"], kept, G, logits.detach(), strict=True)
    expected = torch.stack([slow(*x) for x in about])
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["Bert", "DistilBert"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_states_are_decoded_by_the_word_embeddings(kind, layer):
    model, inputs = case(kind)
    h, G = states_of(model, inputs, 1, layer)
    E = model.get_input_embeddings().weight
    found = relprop.explain(model, inputs, 1, "decoded_saliency", start_layer=layer).relevance
    assert_is_slow(found, inputs, G, F.layer_norm(h, (16,)) @ E.T)


def masked_model(**options):
    torch.manual_seed(1)
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 3, "intermediate_size": 32}
    config = transformers.BertConfig(
        **sizes, num_attention_heads=2, max_position_embeddings=20, **options
    )
    return jittered(transformers.BertForMaskedLM(config))


def test_a_masked_language_model_decodes_by_its_own_head():
    model, (_, inputs) = masked_model(), case()
    out = model(**inputs, output_hidden_states=True)
    h = out.hidden_states[1]
    (G,) = torch.autograd.grad(out.logits[:, 2, 9].sum(), h)
    found = relprop.explain(model, inputs, 9, "decoded_saliency", position=2, start_layer=1)
    assert_is_slow(found.relevance, inputs, G, model.cls(h))


def test_another_head_may_be_given():
    model, inputs = case()
    head = masked_model().cls
    h, G = states_of(model, inputs, 1, 2)
    found = relprop.explain(
        model, inputs, 1, "decoded_saliency", start_layer=2, lm_head=lambda x: head(x).detach()
    )
    assert_is_slow(found.relevance, inputs, G, head(h))


def test_several_classes_at_once():
    model, inputs = case()
    trace = relprop.record(model, inputs)
    together = relprop.explain_classes(trace, [0, 1], "decoded_saliency", start_layer=1)
    for target, found in enumerate(together):
        alone = relprop.explain_trace(trace, target, "decoded_saliency", start_layer=1)
        torch.testing.assert_close(found.relevance, alone.relevance)


def test_pictures_are_refused():
    with pytest.raises(UnsupportedModel, match="the input is no text; accepted: ids"):
        relprop.explain(*picture(), 1, "decoded_saliency")


def test_word_embeddings_of_another_width_are_refused():
    config = transformers.ElectraConfig(
        vocab_size=30, embedding_size=8, hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32, num_labels=4,
    )  # fmt: skip
    model, inputs = jittered(transformers.ElectraForSequenceClassification(config)), case()[1]
    with pytest.raises(UnsupportedModel, match="8 channels, and states 16.*accepted: lm_head="):
        relprop.explain(model, inputs, 1, "decoded_saliency")


@pytest.mark.parametrize(
    "head, said",
    [
        (lambda x: x, r"accepted: logits \[2, 7, 30\]"),
        ("some-bert", "lm_head is .*accepted: None, or a function"),
        (3, "lm_head is .*accepted: None, or a function"),
    ],
)
def test_what_is_no_head_is_refused(head, said):
    with pytest.raises(ValueError, match=said):
        relprop.explain(*case(), 1, "decoded_saliency", lm_head=head)
