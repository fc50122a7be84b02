"""Every array of reference/lxt: AttnLRP and CP-LRP as lxt computes them, on unmodified models."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from torch import Tensor, nn

import relprop
from relprop import rules

FOLDER = Path(__file__).parents[1] / "reference" / "lxt"
CONV, LINEAR = 0.25, 0.05  # gamma
GAMMA = {"gamma": LINEAR, "patch_gamma": CONV}
EXACT, ROUNDED = 1e-7, 1e-5  # of the largest value; of models with casts to float32
STABILISER = 1e-12  # zennit's


def load(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Arrays and weights of a file."""
    arrays = {k: torch.from_numpy(x) for k, x in np.load(FOLDER / f"{name}.npz").items()}
    weights = {
        k.split("/" if "/" in k else ":", 1)[1]: x
        for k, x in arrays.items()
        if k.startswith(("weight/", "w:"))
    }
    return {k: x for k, x in arrays.items() if not k.startswith(("weight/", "w:"))}, weights


def assert_close(found: Tensor, expected: Tensor, tolerance: float = EXACT) -> None:
    assert found.shape == expected.shape and expected.std() > 0
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def variant(name: str):
    """The rule set of a variant, such as ``cp_lrp_gamma``."""
    make = rules.attnlrp if name.startswith("attnlrp") else rules.cp_lrp
    return make(**GAMMA) if "gamma" in name else make()


# ------------------------------------------------------------------------------------- ViT

VIT, VIT_WEIGHTS = load("vit")
ATTENTION = ["attnlrp", "attnlrp_gamma"]
ALL = ["attnlrp", "cp_lrp", "attnlrp_gamma", "cp_lrp_gamma"]


def record_vit() -> relprop.Trace:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3,
        mlp_ratio=2, num_classes=5,
    ).double().eval()  # fmt: skip
    model.load_state_dict(VIT_WEIGHTS)
    return relprop.record(model, VIT["pixels"])


@pytest.fixture(scope="module")
def vit():
    return record_vit()


def test_every_array_of_the_vit_is_tested():
    names = [f"{v}/{level}" for v in ALL for level in ("pixels", "tokens")]
    recipe = "cp_lrp_gamma_lxt_recipe/pixels"
    attention = [f"{v}/attention" for v in ATTENTION]
    assert {k for k in VIT if "/" in k} == {*names, *attention, recipe}


@pytest.mark.parametrize("name", ALL)
def test_vit(vit, name):
    torch.testing.assert_close(vit.logits, VIT["logits"])
    for i, target in enumerate(VIT["targets"]):
        found = vit.source_relevance(target, variant(name), STABILISER)
        assert_close(found, VIT[f"{name}/pixels"][i])
        found = vit.token_relevance(target, variant(name), STABILISER)
        assert_close(found, VIT[f"{name}/tokens"][i])
        method = name.removesuffix("_gamma")
        found = relprop.explain_trace(vit, target, method, rules=variant(name), eps=STABILISER)
        assert_close(found.relevance, VIT[f"{name}/tokens"][i, :, 1:])
        options = {"rules": variant(name), "eps": STABILISER, "level": "input"}
        found = relprop.explain_trace(vit, target, method, **options)
        assert_close(found.relevance, VIT[f"{name}/pixels"][i].sum(1).flatten(1))


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_of_the_vit(vit, name):
    for i, target in enumerate(VIT["targets"]):
        found = vit.relevance(target, rules=variant(name), eps=STABILISER)
        assert_close(torch.stack(found), VIT[f"{name}/attention"][i])


def test_the_recipe_of_lxt(vit):
    """In and out projection of attention are no modules there: they have the epsilon rule."""
    linear = rules.gamma_rule(LINEAR)

    def but_for_attention(gradient, output, input, weight, *args, eps):
        if weight.shape in ((72, 24), (24, 24)):
            return rules.Own(gradient)
        return linear(gradient, output, input, weight, *args, eps=eps)

    recipe = rules.Corrections({**rules.cp_lrp(**GAMMA).rules, "linear": but_for_attention})
    for i, target in enumerate(VIT["targets"]):
        found = vit.source_relevance(target, recipe, 1e-6)
        assert_close(found, VIT["cp_lrp_gamma_lxt_recipe/pixels"][i])


# ------------------------------------------------------------------------------------ texts


def causal(name: str, **sizes) -> nn.Module:
    config = getattr(transformers, f"{name}Config")(
        vocab_size=40, tie_word_embeddings=False, **sizes
    )
    kind = "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    return getattr(transformers, kind)(config)


TEXTS = {
    "bert": lambda: transformers.BertForSequenceClassification(
        transformers.BertConfig(
            hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=48,
            num_labels=3, vocab_size=60, max_position_embeddings=32, layer_norm_eps=1e-12,
        )
    ),
    "gpt2": lambda: causal(
        "GPT2", n_embd=24, n_layer=3, n_head=3, n_positions=32, bos_token_id=None, eos_token_id=None
    ),
    "llama": lambda: causal(
        "Llama", hidden_size=24, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=40,
    ),
}  # fmt: skip
TOLERANCE = {"bert": EXACT, "gpt2": EXACT, "llama": ROUNDED}


def recorded(name: str) -> tuple[dict[str, Tensor], relprop.Trace, list[Tensor]]:
    """Arrays, the recording, and what the module of embeddings puts out."""
    arrays, weights = load(name)
    model = TEXTS[name]().double().eval()
    model.load_state_dict(weights, strict=False)
    assert set(weights) >= {k for k, _ in model.named_parameters()}
    normed: list[Tensor] = []
    if name == "bert":
        model.bert.embeddings.register_forward_hook(lambda *args: normed.append(args[-1]))
    inputs = {
        k: arrays[k] for k in ("input_ids", "attention_mask", "token_type_ids") if k in arrays
    }
    trace = relprop.record(model, inputs, position=None if name == "bert" else -1)
    return arrays, trace, normed


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name):
    arrays, trace, normed = recorded(name)
    torch.testing.assert_close(trace.logits, arrays["logits"], rtol=1e-5, atol=1e-7)

    def at(level: str, target: Tensor, chosen) -> Tensor:
        if level == "word_embeddings":
            return trace.input_relevance(target, chosen, STABILISER).sum(-1)
        if level == "embeddings":
            return trace.token_relevance(target, chosen, STABILISER)
        if level == "attention":
            return torch.stack(trace.relevance(target, rules=chosen, eps=STABILISER))
        assert level == "embeddings_normed"
        return trace._read(normed, target, chosen, STABILISER)[0].sum(-1)

    names = [k for k in arrays if "/" in k]
    assert len(names) >= 3
    for key in names:
        which, level = key.split("/")
        for i, target in enumerate(arrays["targets"]):
            assert_close(at(level, target, variant(which)), arrays[key][i], TOLERANCE[name])


@pytest.mark.parametrize("name", TEXTS)
def test_maps_of_texts_are_those_that_users_of_lxt_read(name):
    arrays, trace, _ = recorded(name)
    for method in ("attnlrp", "cp_lrp"):
        for i, target in enumerate(arrays["targets"]):
            found = relprop.explain_trace(trace, target, method, level="input", eps=STABILISER)
            expected = arrays[f"{method}/word_embeddings"][i]
            assert_close(found.relevance, expected, TOLERANCE[name])


def test_qwen3():
    arrays, weights = load("qwen3")
    config = transformers.Qwen3Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, intermediate_size=48, vocab_size=60, num_labels=3, pad_token_id=0,
    )  # fmt: skip
    model = transformers.Qwen3ForSequenceClassification(config).double().eval()
    model.load_state_dict(weights)
    inputs = {k: arrays[k] for k in ("input_ids", "attention_mask")}
    trace = relprop.record(model, inputs)
    torch.testing.assert_close(trace.logits, arrays["logits"].double(), rtol=1e-5, atol=1e-6)
    found = trace.input_relevance(arrays["target"], rules.attnlrp(), STABILISER)
    assert_close(found, arrays["relevance"].double(), ROUNDED)
