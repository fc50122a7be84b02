"""bimodal_attention of models of Hugging Face is the published rule on their own eager maps."""

import dataclasses
import pickle

import pytest
import torch
import transformers
from torch import Tensor, nn

import relprop
from tests.helpers import bimodal
from tests.helpers.maps import Softmaxes, gradients, scattered

EAGER = {"attn_implementation": "eager"}
B = 2
Pairs = list[tuple[Tensor, Tensor]]  # A and G of each map, [B, H, n, m]


def pairs(y: Tensor, maps: list[Tensor]) -> Pairs:
    return [(a.detach(), g) for a, g in zip(maps, gradients(y, maps), strict=True)]


def of_sample(maps: Pairs, b: int) -> Pairs:
    return [(A[b], G[b]) for A, G in maps]


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape and expected.std() > 0
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


# ------------------------------------------------------------------------- text and image

TEXT, BOXES, LAYERS = 6, 5, 2


@pytest.fixture(scope="module")
def lxmert():
    config = transformers.LxmertConfig(
        vocab_size=40, hidden_size=24, num_attention_heads=2, intermediate_size=32, l_layers=LAYERS,
        r_layers=LAYERS, x_layers=LAYERS, visual_feat_dim=10, num_qa_labels=4,
        max_position_embeddings=16, **EAGER,
    )  # fmt: skip
    model = scattered(transformers.LxmertForQuestionAnswering(config))
    inputs = {
        "input_ids": torch.randint(1, 40, (B, TEXT)),
        "visual_feats": torch.randn(B, BOXES, 10).double(),
        "visual_pos": torch.rand(B, BOXES, 4).double(),
    }
    return model, inputs


def published_lxmert(model: nn.Module, inputs: dict, target: int) -> list[tuple[Tensor, Tensor]]:
    """R_tt and R_ti of each sample."""
    with Softmaxes() as kept:
        out = model(**inputs, output_attentions=True)
    maps = kept.maps
    told = (*out.language_attentions, *out.vision_attentions, *out.cross_encoder_attentions)
    text, image, rest = maps[:LAYERS], maps[LAYERS : 2 * LAYERS], maps[2 * LAYERS :]
    kinds = ("text_from_image", "image_from_text", "text", "image")
    assert len(rest) == LAYERS * len(kinds)
    for own, a in zip((*text, *image, *rest[:: len(kinds)]), told, strict=True):
        assert torch.equal(own, a)
    found = pairs(out.question_answering_score[:, target], maps)

    def generated(b: int) -> tuple[Tensor, Tensor]:
        maps = of_sample(found, b)
        cross = [
            dict(zip(kinds, maps[i : i + 4], strict=True)) for i in range(2 * LAYERS, len(maps), 4)
        ]
        return bimodal.lxmert(maps[:LAYERS], maps[LAYERS : 2 * LAYERS], cross)

    return [generated(b) for b in range(len(inputs["input_ids"]))]


def explained_lxmert(model: nn.Module, inputs: dict, target: int) -> tuple[Tensor, Tensor]:
    """Of the text [B, 6] and of the image's boxes, by feature and place together [B, 5]."""
    sources = relprop.explain(
        model, inputs, target, "bimodal_attention", output=lambda o: o.question_answering_score
    ).sources
    assert set(sources) == {"input_ids", "visual_feats", "visual_pos"}
    boxes = sources["visual_feats"].relevance + sources["visual_pos"].relevance
    return sources["input_ids"].relevance, boxes


def test_lxmert(lxmert):
    text, boxes = explained_lxmert(*lxmert, 2)
    for b, (R_tt, R_ti) in enumerate(published_lxmert(*lxmert, 2)):
        assert_close(text[b], R_tt[0])
        assert_close(boxes[b], R_ti[0])


def test_a_padded_text_beside_an_image_equals_the_text_alone(lxmert):
    """Rows of padding gather nothing, where the published code has NaN."""
    model, inputs = lxmert
    mask = torch.ones(B, TEXT).long()
    mask[1, 4:] = 0
    text, boxes = explained_lxmert(model, inputs | {"attention_mask": mask}, 2)
    alone = {name: x[1:, :4] if name == "input_ids" else x[1:] for name, x in inputs.items()}
    ((R_tt, R_ti),) = published_lxmert(model, alone, 2)
    torch.testing.assert_close(text[1, :4], R_tt[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(boxes[1], R_ti[0], rtol=1e-9, atol=1e-12)
    assert not text[1, 4:].any()


# ----------------------------------------------------------------------- queries and image

SIDE, QUERIES, QUERY = 3, 5, 2
LEARNED = ("model.query_position_embeddings.weight",)


@pytest.fixture(scope="module")
def detr():
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"],
        layer_type="basic",
    )  # fmt: skip
    config = transformers.DetrConfig(
        backbone_config=backbone, use_timm_backbone=False, d_model=24, encoder_layers=2,
        decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=QUERIES, num_labels=3, **EAGER,
    )  # fmt: skip
    return scattered(transformers.DetrForObjectDetection(config))


class Features(nn.Module):
    """DETR of an image that is given as the features of a backbone, [B, N, D]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.model
        self.class_labels_classifier = model.class_labels_classifier

    def forward(self, **inputs):
        out = self.model(pixel_values=None, **inputs)
        return out | {"logits": self.class_labels_classifier(out.last_hidden_state)}


def published_detr(model: nn.Module, inputs: dict, target: int) -> list[Tensor]:
    """R_qq and R_qi of the query, [B, N]; without what it has of itself."""
    out = model(**inputs, output_attentions=True)
    own, cross = out["decoder_attentions"], out["cross_attentions"]
    found = pairs(out["logits"][:, QUERY, target], [*out["encoder_attentions"], *own, *cross])
    layers = len(own)

    def generated(b: int) -> tuple[Tensor, Tensor]:
        maps = of_sample(found, b)
        encoder, decoder = maps[: -2 * layers], maps[-2 * layers :]
        R_qq, R_qi = bimodal.detr(
            encoder, list(zip(decoder[:layers], decoder[layers:], strict=True))
        )
        return R_qq.fill_diagonal_(0)[QUERY], R_qi[QUERY]

    return [torch.stack(rows) for rows in zip(*map(generated, range(B)), strict=True)]


def explained_detr(model: nn.Module, inputs: dict, target: int, **options) -> dict:
    return relprop.explain(
        model, inputs, target, "bimodal_attention", output=lambda o: o["logits"][:, QUERY],
        **options,
    ).sources  # fmt: skip


def queries() -> Tensor:
    """Of the caller's own, in place of zeros."""
    return torch.randn(B, QUERIES, 24, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize(
    "given, learned",
    [({"decoder_inputs_embeds": queries()}, ()), ({}, LEARNED)],
    ids=["of the caller's own", "of the model"],
)
class TestQueries:
    """Those of the model attend to each other before they have taken anything: to constants."""

    def test_and_the_features_of_an_image(self, detr, given, learned):
        model, inputs = Features(detr), given | {"inputs_embeds": torch.randn(B, 9, 24).double()}
        of_queries, of_image = published_detr(model, inputs, 1)
        found = explained_detr(model, inputs, 1, learned=learned)
        assert set(found) == {*inputs, *learned}
        assert_close(found["inputs_embeds"].relevance, of_image)
        (queries,) = set(found) - {"inputs_embeds"}
        assert_close(found[queries].relevance, of_queries)

    def test_and_a_picture(self, detr, given, learned):
        """What features have is spread over the places that they look at, and none is lost."""
        inputs = given | {"pixel_values": torch.randn(B, 3, 32, 32).double()}
        _, of_image = published_detr(detr, inputs, 1)
        found = explained_detr(detr, inputs, 1, learned=learned)["pixel_values"]
        assert found.grid == (16, 16)
        assert_close(found.relevance.sum(1), of_image.sum(1))


def test_queries_that_are_constants_are_refused(detr):
    with pytest.raises(relprop.UnsupportedModel, match="one of them is none; accepted: learned="):
        explained_detr(detr, {"pixel_values": torch.randn(B, 3, 32, 32).double()}, 1)


# ------------------------------------------------------------------------------- two towers


def test_towers_of_clip_are_each_by_itself():
    common = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    common |= {"intermediate_size": 32}
    text = common | {"vocab_size": 40, "max_position_embeddings": 16, "eos_token_id": 39}
    text |= {"bos_token_id": 1, "pad_token_id": 0}
    vision = common | {"image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=16, **EAGER
    )
    model = scattered(transformers.CLIPModel(config))
    ids = torch.randint(2, 39, (B, 7))
    ids[0, 4], ids[1, -1] = 39, 39  # the end, which the head reads
    inputs = {"input_ids": ids, "pixel_values": torch.randn(B, 3, 32, 32).double()}
    out = model(**inputs, output_attentions=True)
    y = out.logits_per_image.diagonal()
    texts, pictures = (
        pairs(y, list(x.attentions)) for x in (out.text_model_output, out.vision_model_output)
    )
    found = relprop.explain(
        model, inputs, torch.arange(B), "bimodal_attention", output=lambda o: o.logits_per_image
    ).sources
    for b, end in enumerate((4, 6)):
        R_tt, R_ii = (bimodal.one_set(of_sample(maps, b)) for maps in (texts, pictures))
        assert_close(found["input_ids"].relevance[b], R_tt[end])
        assert_close(found["pixel_values"].relevance[b], R_ii[0, 1:])


class Towers(nn.Module):
    """Of numbers and of a text; every one is compared with every other."""

    def __init__(self, compare) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.numbers, self.embed, self.compare = nn.Linear(4, 6), nn.Embedding(9, 6), compare

    def forward(self, numbers: Tensor, input_ids: Tensor) -> Tensor:
        return self.compare(self.numbers(numbers), self.embed(input_ids).mean(1))


COMPARED = {
    "product": lambda x, y: x @ y.T,
    "einsum": lambda x, y: torch.einsum("id,jd->ij", x, y),
    "broadcast": lambda x, y: (x[:, None] * y[None]).sum(-1),
    "all with the first": lambda x, y: (x @ y.T)[:, :1],
    "all of one tower": lambda x, y: x @ x.T + (x * y).sum(-1, keepdim=True),
}


@pytest.mark.parametrize("method", ["attnlrp", "lrp"])
@pytest.mark.parametrize("compared", COMPARED)
def test_scores_of_pairs_of_samples_are_refused_but_for_each_with_its_own(compared, method):
    """Relevance of another sample's caption would be in the row of the wrong picture."""
    model = Towers(COMPARED[compared])
    inputs = {"numbers": torch.randn(B, 4), "input_ids": torch.arange(2 * B).view(B, 2)}
    for target in [0] if compared == "all with the first" else [0, torch.arange(B).roll(1)]:
        with pytest.raises(relprop.UnsupportedModel, match=r"of other samples.*torch.arange\(B\)"):
            relprop.explain(model, inputs, target, method)
    alone = {name: x[1:2] for name, x in inputs.items()}
    one = relprop.explain(model, alone, 0, method)
    if compared == "all with the first":
        return
    with pytest.raises(relprop.UnsupportedModel, match="of other samples"):
        relprop.explain(model, inputs, torch.arange(B), method, against=torch.arange(B).roll(1))
    pairs = relprop.explain(model, inputs, torch.arange(B), method)
    for name, found in pairs.sources.items():
        assert_close(found.relevance[1:2], one.sources[name].relevance)


def test_probabilities_among_other_samples_are_refused():
    """p_t of a picture is among its scores with all texts; y_t is of its own alone."""
    model, B = Towers(COMPARED["product"]), 3
    inputs = {"numbers": torch.randn(B, 4), "input_ids": torch.arange(2 * B).view(B, 2)}
    trace, target = relprop.record(model, inputs), torch.arange(B)
    found = relprop.explain_trace(trace, target, "attnlrp").sources
    assert all(x.relevance.any() for x in found.values())
    refused = r"the probabilities .* of other samples.*accepted: .* such as attnlrp"
    for method, rules in (("agf", None), ("lrp", relprop.rules.agf())):
        for targets in ([target], [target, target]):
            with pytest.raises(relprop.UnsupportedModel, match=refused):
                relprop.explain_classes(trace, targets, method, rules=rules)


@pytest.mark.parametrize("one", [0, 1, 2], ids=lambda n: f"{n} samples at a time")
@pytest.mark.parametrize("compared", ["product", "broadcast"])
def test_a_batch_of_pairs_is_never_taken_in_parts(one, compared, monkeypatch):
    """A part of it has other scores: of the predicted class, always the first, or in words."""
    model = Towers(COMPARED[compared])
    inputs = {"numbers": torch.randn(4, 4), "input_ids": torch.arange(8).view(4, 2)}
    expected = relprop.explain(model, inputs, torch.arange(4), "attnlrp").sources
    monkeypatch.setattr("relprop.explaining.LARGEST", one * 6 * 4)  # bytes of a sample
    found = relprop.explain(model, inputs, torch.arange(4), "attnlrp").sources
    for name, theirs in expected.items():
        assert torch.equal(found[name].relevance, theirs.relevance)
    with pytest.raises(relprop.UnsupportedModel, match="of other samples"):
        relprop.explain(model, inputs, None, "attnlrp")
    for output in (None, lambda scores: scores):
        with pytest.raises(ValueError, match="as many scores .*accepted: .*or no max_memory"):
            relprop.explain(model, inputs, None, "attnlrp", max_memory=1, output=output)


def test_an_explanation_of_several_sources_tells_what_it_has():
    inputs = {"numbers": torch.randn(B, 4), "input_ids": torch.arange(2 * B).view(B, 2)}
    found = relprop.explain(Towers(lambda x, y: x * y), inputs, 0, "attnlrp")
    assert "'input_ids': Explanation(source='input_ids', relevance=tensor(" in repr(found)
    for read, name in (
        (lambda: found.heatmap(8), r"heatmap\(size\)"),
        (lambda: found.relevance, "relevance"),
        (lambda: found.grid, "grid"),
        (lambda: found.source, "source"),
    ):
        message = rf"2 sources .*accepted: explanation.sources\['numbers'\].{name}$"
        with pytest.raises(AttributeError, match=message):
            read()
    other = dataclasses.replace(found, target=found.target + 1)
    assert torch.equal(other.target, found.target + 1) and other.several is found.several
    assert repr(pickle.loads(pickle.dumps(found))) == repr(found)


def test_gradcam_of_an_encoder_beside_a_decoder_is_refused_in_words():
    config = transformers.BartConfig(
        vocab_size=20, d_model=8, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=8,
        decoder_ffn_dim=8, encoder_attention_heads=2, decoder_attention_heads=2, eos_token_id=2,
        pad_token_id=1, max_position_embeddings=16, num_labels=2,
    )  # fmt: skip
    model = transformers.BartForSequenceClassification(config)
    inputs = {"input_ids": torch.tensor([[3, 4, 2], [5, 6, 2]])}
    with pytest.raises(relprop.UnsupportedModel, match="the model is no single chain .*accepted: "):
        relprop.explain(model, inputs, 1, "gradcam")
