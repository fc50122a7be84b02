"""Attention with an adapted position bias: the published arrays, padding, options, checkpoints."""

import json
from pathlib import Path
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file

import relprop
from lightning_modules import BertClassifier
from lightning_modules.data import DATAMODULES
from lightning_modules.export import EXPORTS
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.models.dape import AdaptedScores, Alibi, Dape, Kerple, attend
from lightning_modules.utils.errors import InputError
from tests.helpers.samples import message_of

# The published code of language models (chuanyang-Zheng/DAPE at bde344a) on random numbers; those
# named bidirectional are Kerple's with |i - j| and without the triangle.
REFERENCE = {
    name: torch.from_numpy(array)
    for name, array in np.load(Path(__file__).parents[1] / "reference/seeds/dapev2.npz").items()
}
Q, K, V = (REFERENCE[name] for name in "qkv")
HEADS, TOKENS, SCALING = 4, 7, 8**-0.5
CAUSAL = torch.full((TOKENS, TOKENS), -torch.inf).triu(1)[None, None].double()
SIZES = {
    "model_type": "bert",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 66,
}
KINDS = [
    {},
    {"kernel": 1},
    {"kernel": 5, "width": 7},
    {"kernel": None},
    {"bias": "alibi"},
    {"bias": "alibi", "kernel": None},
    {"bias": "none"},
]


def published(bias: str) -> AdaptedScores:
    """The layer with the published weights."""
    module = AdaptedScores(HEADS, Dape(bias=bias, width=8)).double()
    found = {
        f"mlp.{layer}.{name}": REFERENCE[f"{bias}_w_mlp2_{layer}_{name}"]
        for layer in (0, 2)
        for name in ("weight", "bias")
    }
    if bias == "kerple":
        found |= {f"bias.{x}": REFERENCE[f"kerple_w_bias_{x}"].flatten() for x in "pa"}
    module.load_state_dict(found)
    return module


def attended(module: AdaptedScores, mask: torch.Tensor | None, causal: bool):
    layer = SimpleNamespace(dape=module, is_causal=causal, training=False)
    return attend(layer, Q, K, V, mask, SCALING)


def close(found: torch.Tensor, expected: torch.Tensor, atol: float = 1e-14) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


# ------------------------------------------------------------------------- the published arrays


@pytest.mark.parametrize("bias", ["alibi", "kerple"])
def test_the_published_causal_form(bias):
    module = published(bias)
    distance = (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)).clamp(min=0).double()
    close(module.bias(distance), REFERENCE[f"{bias}_bias"])
    if bias == "alibi":
        close(-module.bias(distance)[:, 1, 0], REFERENCE["alibi_slopes"])
    scores = Q @ K.mT * SCALING
    close(scores, REFERENCE["scores"])
    close(module(scores, causal=True), REFERENCE[f"{bias}_scores_out"])
    output, attention = attended(module, CAUSAL, causal=True)
    close(attention, REFERENCE[f"{bias}_attention_causal"])
    close(output.transpose(1, 2), REFERENCE[f"{bias}_output_causal"])


def test_the_form_of_an_encoder():
    module = published("kerple")
    distance = (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)).abs().double()
    close(module.bias(distance), REFERENCE["bidirectional_bias"])
    close(module(Q @ K.mT * SCALING), REFERENCE["bidirectional_scores_out"])
    output, attention = attended(module, None, causal=False)
    close(attention, REFERENCE["bidirectional_attention"])
    close(output.transpose(1, 2), REFERENCE["bidirectional_output"])


def test_a_row_of_the_causal_form_hangs_on_no_later_key():
    module, scores = published("kerple"), Q @ K.mT * SCALING
    changed = scores.clone()
    changed[..., 5] += 1
    one, other = (module(x, causal=True) for x in (scores, changed))
    assert torch.equal(one[:, :, :5, :5], other[:, :, :5, :5])
    assert not torch.equal(one[:, :, 5, :6], other[:, :, 5, :6])


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("bias", ["kerple", "none"])
def test_scores_are_those_of_the_equation_written_with_loops(bias, kernel):
    torch.manual_seed(0)
    heads, n, width, half = 2, 4, 3, kernel // 2
    module = AdaptedScores(heads, Dape(bias, kernel, width)).double()
    s = torch.randn(1, heads, n, n, dtype=torch.float64)
    b = torch.zeros_like(s)
    if bias == "kerple":
        for h in range(heads):
            for i in range(n):
                for j in range(n):
                    p, a = module.bias.p[h].clamp(min=0.01), module.bias.a[h].clamp(min=0.01)
                    b[0, h, i, j] = -p * torch.log(1 + a * abs(i - j))
    z = torch.cat([s, b], dim=1) if bias == "kerple" else s

    def convolved(x, layer):
        out = torch.zeros(layer.out_channels, n, n, dtype=torch.float64)
        for o in range(layer.out_channels):
            for i in range(n):
                for j in range(n):
                    out[o, i, j] = layer.bias[o]
                    for c in range(len(x)):
                        for k in range(-half, half + 1):
                            if 0 <= j + k < n:
                                out[o, i, j] += layer.weight[o, c, 0, half + k] * x[c, i, j + k]
        return out

    hidden = convolved(z[0], module.mlp[0])
    hidden = torch.where(hidden > 0, hidden, 0.01 * hidden)
    close(module(s)[0], (s + b)[0] + convolved(hidden, module.mlp[2]))


def test_kerples_parameters_count_as_at_least_a_hundredth_and_can_come_back():
    kerple = Kerple(2).double()
    with torch.no_grad():
        kerple.p.copy_(torch.tensor([-1.0, 0.5]))
        kerple.a.copy_(torch.tensor([0.25, 0.001]))
    distance = torch.tensor([[0.0, 3.0]]).double()
    found = kerple(distance)
    close(found[0], -0.01 * torch.log(1 + 0.25 * distance))
    close(found[1], -0.5 * torch.log(1 + 0.01 * distance))
    found.sum().backward()
    assert kerple.p.grad.all() and kerple.a.grad.all()


# --------------------------------------------------------------------------------- in a BERT


@pytest.fixture(scope="module")
def data():
    sizes = {"train_size": 60, "val_size": 20, "test_size": 20, "contrast_size": 5}
    return DATAMODULES["reviews"](batch_size=6, vocab_size=300, **sizes)


@pytest.fixture(scope="module")
def batch(data):
    return data.collate([data.val_dataset[i] for i in range(6)])


def classifier(data, config=None, **options) -> BertClassifier:
    torch.manual_seed(0)
    given = SIZES | (config or {})
    return BertClassifier(data.class_names, data.input_config, config=given, **options).eval()


def adapted(data, dape=None, **options) -> BertClassifier:
    """Its convolutions matter more than those of a new model."""
    model = classifier(data, attention="dape", dape=dape, positions="none", **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(4 if ".mlp." in name or "query" in name else 1)
    return model.double()


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("dape", KINDS, ids=str)
def test_a_padded_text_is_what_it_is_alone(data, dape, left):
    model = adapted(data, dape).backbone.base_model
    generator = torch.Generator().manual_seed(0)
    ids, other = (torch.randint(5, 200, (1, n), generator=generator) for n in (9, 13))
    pad = (4, 0) if left else (0, 4)
    one, there = F.pad(ids, pad), F.pad(torch.ones_like(ids), pad)
    inputs = {"input_ids": torch.cat([one, other])}
    inputs["attention_mask"] = torch.cat([there, torch.ones_like(other)])
    with torch.no_grad():
        alone = model(input_ids=ids).last_hidden_state[0]
        padded = model(**inputs).last_hidden_state[0][there[0].bool()]
        without_mask = model(input_ids=one).last_hidden_state[0][there[0].bool()]
    close(padded, alone, 1e-12)
    assert (without_mask - alone).abs().max() > 1e-6


def test_logits_are_those_of_eager_attention_where_nothing_is_added(data, batch):
    """A bias of 0 and convolutions of 0: the hook is transformers' own attention."""
    eager = classifier(data, attention="eager").double()
    model = classifier(data, attention="dape").double()
    assert model.load_state_dict(eager.state_dict(), strict=False).unexpected_keys == []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".dape.mlp." in name:
                parameter.zero_()
        for layer in model.backbone.modules():
            if isinstance(layer, Kerple):
                layer.forward = lambda distance: distance.new_zeros(4, *distance.shape)
        assert torch.equal(model(batch), eager(batch))
    maps = [relprop.record(x.backbone, x.inputs(batch)).attention for x in (model, eager)]
    for one, other in zip(*maps, strict=True):
        assert torch.equal(one, other)


def test_order_counts_by_the_bias_alone(data):
    ids = torch.randint(5, 200, (1, 9), generator=torch.Generator().manual_seed(0))
    turned = torch.cat([ids[:, :1], ids[:, 1:].flip(1)], dim=1)
    plain = classifier(data, positions="none").double().backbone
    with torch.no_grad():
        close(plain(ids).logits, plain(turned).logits, 1e-12)
        for dape in KINDS:
            if dape != {"bias": "none", "kernel": 1}:
                model = adapted(data, dape).backbone
                assert (model(ids).logits - model(turned).logits).abs().max() > 1e-6


def test_without_positions_their_embeddings_are_0_and_stay_so(data, batch):
    model = classifier(data, positions="none")
    table = model.backbone.bert.embeddings.position_embeddings.weight
    assert not table.any()
    trained = {id(p) for group in model.parameter_groups() for p in group["params"]}
    assert id(table) not in trained
    assert trained == {id(p) for p in model.backbone.parameters() if p is not table}
    F.cross_entropy(model(batch), batch["label"]).backward()
    assert table.grad is None


def test_a_bias_is_not_decayed_and_convolutions_are(data):
    model = classifier(data, attention="dape", weight_decay=0.1)
    names = {id(p): name for name, p in model.backbone.named_parameters()}
    decayed = {
        names[id(p)]: g["weight_decay"] for g in model.parameter_groups() for p in g["params"]
    }
    assert decayed["bert.encoder.layer.0.attention.self.dape.bias.p"] == 0
    assert decayed["bert.encoder.layer.0.attention.self.dape.mlp.0.weight"] == 0.1


# ----------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "options, said",
    [
        ({"dape": {}}, "model.dape is of model.attention=dape, and it is sdpa; accepted: null"),
        ({"attention": "dape", "dape": {"kernel": 2}}, "accepted: an odd number, or null"),
        ({"attention": "dape", "dape": {"bias": "fire"}}, "accepted: .*kerple.*alibi.*none"),
        ({"attention": "dape", "dape": {"bais": "alibi"}}, "accepted: bias, kernel, width"),
        (
            {"attention": "dape", "dape": {"bias": "none", "kernel": None}},
            "accepted: bias kerple or alibi, a kernel, or model.attention=sdpa",
        ),
        ({"attention": "flash"}, "accepted: sdpa or eager or dape"),
        (
            {"attention": "dape", "config": {"model_type": "electra"}},
            "model.attention=dape is of a BERT from scratch, and the model is model_type electra",
        ),
        (
            {"positions": "none", "config": {"model_type": "roberta"}},
            "model.positions=none is of a BERT from scratch, and the model is model_type roberta",
        ),
        (
            {"attention": "dape", "dape": {"bias": "alibi"}, "config": {"num_attention_heads": 3}},
            "the model has 3 heads; accepted: 1, 2, 4, 8, 16, ..., or bias kerple",
        ),
    ],
)
def test_options_that_are_refused(data, options, said):
    with pytest.raises((InputError, ValueError), match=said) as refused:
        classifier(data, **options)
    assert "\n" not in str(refused.value)


def test_a_pretrained_model_is_refused(data):
    for option in ({"attention": "dape"}, {"positions": "none"}):
        with pytest.raises(InputError, match="is of a BERT from scratch, and the model is a pretr"):
            BertClassifier(data.class_names, data.input_config, name="bert-base-uncased", **option)


def test_alibi_has_slopes_of_powers_of_two_alone():
    assert Alibi(8)(torch.ones(1, 1))[:, 0, 0].tolist() == [-(2.0**-h) for h in range(1, 9)]
    with pytest.raises(InputError) as refused:
        Alibi(6)
    message_of(refused, "the model has 6 heads")


def test_an_export_that_others_could_not_load_is_refused(data):
    model = classifier(data, attention="dape")
    with pytest.raises(InputError, match="--to hf: .* accepted: --to safetensors"):
        EXPORTS["hf"](model)
    EXPORTS["hf"](classifier(data, positions="none"))


def test_an_export_of_weights_says_what_they_are_of(data, tmp_path):
    model = classifier(data, attention="dape", dape={"bias": "alibi"}, positions="none")
    export = EXPORTS["safetensors"](model)
    export.write(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        made = json.loads(file.metadata()["relprop"])["model"]
    options = {x: made[x] for x in ("config", "attention", "dape", "positions")}
    again = BertClassifier(data.class_names, data.input_config, **options)
    again.backbone.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert "load_state_dict" not in export.usage("FOLDER")  # transformers alone has no such model


@pytest.mark.parametrize("dape", [None, *KINDS[1:]], ids=str)
def test_a_checkpoint_has_all_of_it(data, batch, dape, tmp_path):
    model = classifier(data, attention="dape", dape=dape, positions="none")
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = load_classifier(tmp_path / "a.ckpt").eval()
    assert torch.equal(loaded(batch), model(batch))
    table = loaded.backbone.bert.embeddings.position_embeddings.weight
    assert not table.any() and not table.requires_grad


def test_weights_of_a_run_with_positions_lose_them(data, batch, tmp_path):
    torch.save(classifier(data).backbone.state_dict(), tmp_path / "weights.pt")
    model = classifier(data, positions="none", weights=str(tmp_path / "weights.pt"))
    assert not model.backbone.bert.embeddings.position_embeddings.weight.any()
    with pytest.raises(ValueError, match="of its parameters are missing and 0 are unknown"):
        classifier(data, attention="dape", weights=str(tmp_path / "weights.pt"))
