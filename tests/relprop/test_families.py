"""Small random models of each family: explained rightly, or refused in words."""

import dataclasses
import os
import warnings
from pathlib import Path

import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms import v2

import relprop
from benchmarks import workers
from benchmarks.families import ENTRIES, checks, document, texts, timm_models
from benchmarks.families.entry import Example
from benchmarks.families.weights import own_tokens, without_constants

transformers.logging.set_verbosity_error()
# Those that take seconds, for they cannot be made small, are in tests/soak. Others that are built
# in the same way are here: branches of convolutions, depthwise ones, attention on maps of these.
LARGE = {
    f"timm/{name}"
    for name in (
        *("inception_resnet_v2", "inception_v3", "inception_v4", "nasnet", "pnasnet", "xception"),
        *("dla", "hrnet", "selecsls"),
        *("resnest", "res2net", "senet", "repghost", "rexnet", "fastvit"),
        *("ghostnet", "hardcorenas", "hgnet", "lcnetv2", "mobilenetv5"),
        *("cpubone", "efficientformer", "efficientformer_v2", "efficientvim"),
        *("efficientvit_msra", "nextvit"),
    )
}


RELEVANCE = (("lrp", {}), ("lrp", {"rules": relprop.rules.epsilon}), ("cp_lrp", {}))


def check_family(name: str) -> checks.Verdict:
    """It is explained rightly or refused in words; which of both."""
    example = ENTRIES[name].make()
    explained = checks.explained(example)
    assert explained.outcome in ("ok", "refused"), explained
    for method, options in RELEVANCE:
        found = checks.explained(example, method, **options)
        assert found.outcome in ("ok", "refused"), (method, found)
        assert found.outcome == "ok" or explained.outcome == "refused" or method == "cp_lrp", found
    products = checks.products(example)
    # Weights that do not sum to 1 end in what is known.
    assert products.outcome in ("ok", "refused") or checks.PADDED in products.says, products
    gradient = checks.gradient(example)
    # A method may ask for more, such as the places of patches.
    assert gradient.outcome == "ok" or gradient.outcome == explained.outcome == "refused", gradient
    if ENTRIES[name].must:
        assert explained.outcome == "ok", explained
    if ENTRIES[name].refused:
        assert explained.outcome == "refused"
    if explained.outcome == "ok" and example.padded:
        assert checks.padding(example).outcome == "ok"
    return explained


OUTCOMES: dict[str, str] = {}  # of the tests that have run


@pytest.mark.parametrize("name", [name for name in ENTRIES if name not in LARGE])
def test_each_family_is_explained_rightly_or_refused_in_words(name):
    OUTCOMES[name] = check_family(name).outcome


def families_of_timm() -> list[str]:
    return [f"timm/{name}" for name in timm_models.MODELS if f"timm/{name}" in ENTRIES]


def test_nine_of_ten_families_of_timm_are_explained():
    families = [name for name in families_of_timm() if name not in LARGE]
    for name in families:
        if name not in OUTCOMES:  # asked for alone
            OUTCOMES[name] = check_family(name).outcome
    refused = [name for name in families if OUTCOMES[name] != "ok"]
    assert len(refused) <= 0.1 * len(families), refused


@pytest.mark.skipif(timm.__version__ != "1.0.31", reason="other versions have other families")
def test_each_module_of_timm_has_a_model():
    assert timm_models.missing() == []
    assert len(timm_models.MODELS) == 98


@pytest.mark.parametrize("name", ["timm/resnet", "timm/swin_transformer", "text/Llama", "text/T5"])
def test_epsilon_conserves_without_biases(name):
    assert checks.conserved(ENTRIES[name].make()).outcome == "ok"


OF_WINDOWS = {  # in 64 x 64 pixels; those of timm are larger
    "twins": {"wss": (4, 4, 2, 2)},
    "tiny_vit": {"window_sizes": (4, 4, 2, 2)},
    "hieradet_sam2": {"window_spec": (8, 4, 4, 2)},
    "vision_transformer_sam": {"window_size": 2},
}


@pytest.mark.parametrize("name", OF_WINDOWS)
def test_weights_sum_to_1_where_windows_need_no_padding(name, monkeypatch):
    small = timm_models.MODELS[name]
    padded = ENTRIES[f"timm/{name}"].make()
    options = {**small.options, **OF_WINDOWS[name]}
    monkeypatch.setitem(timm_models.MODELS, name, dataclasses.replace(small, options=options))
    fitting = timm_models.example(name)
    for method in ("rollout", "raw_attention"):
        assert checks.weighed(padded, method).says.endswith(checks.PADDED)
        assert checks.weighed(fitting, method).outcome == "ok"


def test_weights_sum_to_1_without_the_trigrams_of_mobilebert(monkeypatch):
    options = texts.MOBILE | {"trigram_input": False}
    monkeypatch.setitem(texts.CLASSIFIERS, "MobileBERT", ("MobileBert", options))
    for method in ("rollout", "raw_attention"):
        assert checks.weighed(texts.classifier("MobileBERT"), method).outcome == "ok"


def test_weights_that_do_not_sum_to_1_are_found(monkeypatch):
    for name in ("timm/vision_transformer", "timm/twins"):
        example = ENTRIES[name].make()
        right = checks.maps

        def more(*args, right=right, **options):
            return {name: 10 * r for name, r in right(*args, **options).items()}

        with monkeypatch.context() as context:
            context.setattr(checks, "maps", more)
            assert checks.weighed(example).says.endswith(checks.UNKNOWN)


class Linear(nn.Module):
    """Its logits are linear in the pixels, so that what relevance has to be is known."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.ones(1, 1, 3))
        self.layer = nn.Linear(12, 4).double()

    def forward(self, x):
        return self.layer(x.flatten(1))


def linear() -> Example:
    torch.manual_seed(0)
    return Example(Linear(), torch.randn(2, 3, 2, 2, dtype=torch.float64))


def test_expected_gradients_are_those_of_a_model_written_out():
    example = linear()
    found = checks.input_x_gradient(example)["input"]
    weight = example.model.layer.weight.detach()[:2].view(2, 3, 2, 2)
    torch.testing.assert_close(found, example.inputs * weight)


def test_a_copy_without_constants_is_0_at_0_and_the_model_is_as_it_was():
    example = linear()
    copy = without_constants(example.model)
    assert not copy(torch.zeros(1, 12).double()).any() and example.model.layer.bias.all()
    assert not copy.cls_token.any() and own_tokens(copy) == ["cls_token"]


def test_a_wrong_gradient_is_found(monkeypatch):
    example = ENTRIES["timm/resnet"].make()
    right = relprop.Trace.input_relevance
    monkeypatch.setattr(relprop.Trace, "input_relevance", lambda *a, **k: right(*a, **k) * 1.01)
    assert checks.gradient(example).outcome == "off"
    assert checks.conserved(example).outcome == "off"


def test_what_is_not_an_unsupported_model_is_a_failure():
    def fails(of):
        raise KeyError("x")

    def refuses(of):
        raise relprop.UnsupportedModel("no such\n thing; accepted: others")

    assert checks.check(fails)(None).outcome == "failed"
    assert checks.check(refuses)(None) == checks.Verdict(
        "refused", "no such thing; accepted: others"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checks.within(float("nan"), 1e-9).outcome == "off"


def test_rows_that_are_not_measured_again_stay(tmp_path):
    page, ok = tmp_path / "models.md", checks.Verdict("ok", "2e-16")
    first = document.cells("timm/resnet", {"attnlrp": ok, "gradient": ok})
    document.write(page, {"timm/resnet": first})
    rows = document.read(page)
    rows["text/BERT"] = document.cells("text/BERT", "a | b")
    document.write(page, rows)
    assert document.read(page) == {"timm/resnet": first, "text/BERT": rows["text/BERT"]}
    assert first[2:] == ["ok 2e-16", "", "ok 2e-16", "", "", ""]


def test_a_process_that_dies_is_one_row_and_not_the_end():
    dies = "__import__('os')._exit(3)"
    found = dict(workers.run(eval, [dies, "1 + 1", "2 + 2"], processes=1, limit=600))
    assert found == {dies: "the process ended with code 3", "1 + 1": 2, "2 + 2": 4}


SHARED = Path(os.environ.get("SHARED_DATA", Path(__file__).parents[3] / "shared"))


def photographs() -> torch.Tensor:
    """Of each class of CIFAR-10 two that no one trained on, as the shared ViT wants them."""
    normalise = v2.Compose(
        [
            v2.Resize(112, v2.InterpolationMode.BICUBIC),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    files = sorted((SHARED / "data/cifar10/test").glob("*/000[01].jpg"))
    return torch.stack([normalise(Image.open(file).convert("RGB")) for file in files])


@pytest.mark.data
@pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="no ../shared/models")
@pytest.mark.parametrize("method", ["attnlrp", "cp_lrp", "transformer_attribution"])
def test_the_most_relevant_patches_move_the_logit_more_than_the_least(method):
    model = timm.create_model("vit_small_patch14_dinov2", img_size=112, num_classes=10).eval()
    weights = load_file(SHARED / "models/vit_small_cifar10.safetensors")
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    most, least = checks.perturbed(Example(model, photographs()), method)
    assert most > 2 * abs(least)
