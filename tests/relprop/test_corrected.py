"""The equations of AttnLRP and CP-LRP, written out by hand, give every array of reference/lxt.

And the engine gives what they give where there is no array: to rounding, and with gamma on texts.
"""

import functools

import pytest
import torch
from torch import Tensor

import relprop
from relprop import rules
from tests.helpers.corrected import Corrected, Weights, bert, gpt2, llama, vit
from tests.helpers.walks import walk_back
from tests.relprop import test_lxt
from tests.relprop.test_lxt import CONV, EXACT, LINEAR, ROUNDED, STABILISER, TEXTS, assert_close

load = functools.cache(test_lxt.load)
recorded_vit = functools.cache(test_lxt.record_vit)
RECIPE = {"stabiliser": 1e-6, "of_attention": False}
TOLERANCE = {"llama": ROUNDED, "qwen3": ROUNDED}
ROUNDING = 1e-11  # of two ways to the same number


def corrected(variant: str) -> Corrected:
    gamma = {"gamma": LINEAR, "patch_gamma": CONV} if "gamma" in variant else {}
    recipe = RECIPE if "recipe" in variant else {}
    return Corrected("attnlrp" if variant.startswith("attnlrp") else "cp_lrp", **gamma, **recipe)


def forward(name: str, c: Corrected) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits of a file's model, and the tensors of which it has relevance, by level."""
    arrays, w = load(name)
    if name == "vit":
        pixels = arrays["pixels"].clone().requires_grad_()
        logits, tokens = vit(c, w, pixels)
        return logits, {"pixels": pixels, "tokens": tokens}
    words = words_of(arrays, w)
    if name == "bert":
        masks = (arrays[k] for k in ("token_type_ids", "attention_mask"))
        logits, x0, normed = bert(c, w, words, *masks)
        return logits, {"word_embeddings": words, "embeddings": x0, "embeddings_normed": normed}
    if name == "gpt2":
        logits, x0 = gpt2(c, w, words)
        return logits, {"word_embeddings": words, "embeddings": x0}
    if name == "llama":
        logits = c.linear(llama(c, w, words)[:, -1], w, "lm_head")
        return logits, {"word_embeddings": words}
    # The head reads the last token that is not 0, which in the second sample is a masked one.
    logits = c.linear(llama(c, w, words, arrays["attention_mask"])[:, -1], w, "score")
    return logits, {"relevance": words}


def words_of(arrays: dict[str, Tensor], w: Weights) -> Tensor:
    (table,) = (x for k, x in w.items() if k.endswith(("word_embeddings.weight", "wte.weight",
                                                       "embed_tokens.weight")))  # fmt: skip
    return table[arrays["input_ids"]].requires_grad_()


def relevance(name: str, c: Corrected, target: Tensor) -> dict[str, Tensor]:
    """By level, in the shape of the file's arrays."""
    logits, at = forward(name, c)
    found = c.relevance(logits, target, *at.values(), *c.maps)
    by_level = dict(zip(at, found[: len(at)], strict=True))
    summed = {k: x if k in ("pixels", "relevance") else x.sum(-1) for k, x in by_level.items()}
    return summed | ({"attention": torch.stack(found[len(at) :])} if c.maps else {})


def keys(name: str) -> list[str]:
    return [key for key in load(name)[0] if "/" in key]


NAMES = ("vit", "bert", "gpt2", "llama", "qwen3")


@pytest.mark.parametrize("name", NAMES)
def test_the_models_written_out_have_the_logits_of_the_files(name):
    logits, _ = forward(name, Corrected("attnlrp"))
    assert_close(logits, load(name)[0]["logits"], TOLERANCE.get(name, EXACT))


@pytest.mark.parametrize(
    "name, key", [(name, key) for name in NAMES[:-1] for key in keys(name)],
    ids=lambda x: x.replace("/", "-"),
)  # fmt: skip
def test_the_equations_give_every_array(name, key):
    arrays, _ = load(name)
    variant, level = key.split("/")
    for i, target in enumerate(arrays["targets"]):
        found = relevance(name, corrected(variant), target)[level]
        assert_close(found, arrays[key][i], TOLERANCE.get(name, EXACT))


def test_the_equations_give_the_relevance_of_qwen3():
    arrays, weights = load("qwen3")
    words = words_of(arrays, weights).detach()
    assert torch.equal(words, arrays["embeddings"])
    found = relevance("qwen3", Corrected("attnlrp"), arrays["target"])["relevance"]
    assert_close(found, arrays["relevance"], ROUNDED)


# ------------------------------------------------------------------------------ the engine


@pytest.mark.parametrize("variant", ["attnlrp", "cp_lrp", "attnlrp_gamma", "cp_lrp_gamma"])
def test_the_engine_gives_the_same_to_rounding(variant):
    trace, target = recorded_vit(), torch.tensor([4, 4])
    expected = relevance("vit", corrected(variant), target)
    gamma = {"gamma": LINEAR, "patch_gamma": CONV} if "gamma" in variant else {}
    make = rules.attnlrp if variant.startswith("attnlrp") else rules.cp_lrp
    chosen = make(**gamma)
    assert_close(trace.source_relevance(target, chosen, STABILISER), expected["pixels"], ROUNDING)
    assert_close(trace.token_relevance(target, chosen, STABILISER), expected["tokens"], ROUNDING)
    if "attention" in expected:
        found = trace.relevance(target, rules=chosen, eps=STABILISER)
        assert_close(torch.stack(found), expected["attention"], ROUNDING)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("method", ["attnlrp", "cp_lrp"])
@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_the_engine_gives_the_same_on_texts_with_gamma(name, method, gamma):
    """The gamma rule of the library's own spellings of a linear layer, Conv1D among them."""
    (arrays, weights), target = load(name), torch.tensor([1, 2])
    model = TEXTS[name]().double().eval()
    model.load_state_dict(weights, strict=False)
    inputs = {
        k: arrays[k] for k in ("input_ids", "attention_mask", "token_type_ids") if k in arrays
    }
    trace = relprop.record(model, inputs, position=None if name == "bert" else -1)
    expected = relevance(name, Corrected(method, gamma=gamma, stabiliser=1e-6), target)
    chosen = getattr(rules, method)(gamma=gamma)
    words = trace.input_relevance(target, chosen, 1e-6).sum(-1)
    assert_close(words, expected["word_embeddings"], ROUNDING)
    tokens = trace.token_relevance(target, chosen, 1e-6)
    assert_close(tokens, expected["embeddings"], ROUNDING)
    explained = relprop.explain_trace(trace, target, method, rules=chosen, eps=1e-6).relevance
    kept = arrays.get("attention_mask", torch.ones_like(arrays["input_ids"]))
    assert_close(explained, expected["embeddings"] * kept, ROUNDING)


# ---------------------------------------------------------------- sets of the other kind

RELEVANCE = "of the gradient, in a set of the relevance"
MIXED = {
    "a correction among rules": (rules.LRP | {"linear": rules.gamma_rule(0.0)}, RELEVANCE),
    "a rule among corrections": (
        rules.Corrections({"linear": rules.linear_epsilon}),
        "of the relevance, in a set of the gradient",
    ),
    "a rule of any function among corrections": (
        rules.Corrections(lambda *place: rules.epsilon_of(torch.mul)),
        "of the relevance, in a set of the gradient",
    ),
    "corrections by a plain function": (
        lambda operation, *place: rules.attnlrp(gamma=0.1).rules.get(operation),
        RELEVANCE,
    ),
    "corrections without one of it by a plain function": (
        lambda operation, *place: rules.attnlrp().rules.get(operation),
        r"no rule for 'linear'; accepted: .* relprop.rules.Corrections\(function\)",
    ),
    "a set in place of a rule": (
        lambda *place: rules.attnlrp(),
        "that of 'linear' is no rule but a Corrections",
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_rules_of_the_other_kind_are_refused(name):
    """Relevance taken for a gradient, or the reverse, is a wrong map."""
    chosen, message = MIXED[name]
    model, x = torch.nn.Linear(4, 2).double(), torch.randn(3, 4).double()
    with pytest.raises(ValueError, match=message) as refused:
        relprop.explain(model, x, 0, "lrp", rules=chosen)
    assert "\n" not in str(refused.value)


def test_a_correction_of_ones_own_may_return_one_tensor():
    W, x, g = (torch.randn(shape).double() for shape in ((2, 4), (3, 4), (3, 2)))
    chosen = rules.Corrections({"linear": lambda g, y, x, W, *bias, eps: g @ W})
    (found,) = walk_back(lambda x: torch.nn.functional.linear(x, W), g, x, rules=chosen)
    torch.testing.assert_close(found, g @ W)
