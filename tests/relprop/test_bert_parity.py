"""Every array of the published implementation's run on a small BERT, met in one padded batch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

import relprop
from lightning_modules.models.explaining_texts import with_class_token_entry

REFERENCE = Path(__file__).parents[1] / "reference"
TOLERANCE = {"exact": 1e-6, "published": 1e-3}  # of an array's largest magnitude
MAPS = {
    "transformer_attribution/start_0": ("transformer_attribution", {"normalize_rows": True}),
    "transformer_attribution/start_last": (
        "transformer_attribution",
        {"normalize_rows": True, "start_layer": 3},
    ),
    "raw_attention": ("raw_attention", {}),
    "rollout/start_0": ("rollout", {}),
    "gradcam": ("gradcam", {}),
    "lrp": ("lrp", {}),
    "partial_lrp": ("partial_lrp", {}),
}
ARRAYS = ("attention", "gradient", "relevance")


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(REFERENCE / "bert.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def trace(request, reference) -> relprop.Trace:
    config = BertConfig(**json.loads((REFERENCE / "config.json").read_text())["bert"])
    config._attn_implementation = request.param
    model = BertForSequenceClassification(config).double()
    weights = {k.removeprefix("weight/"): v for k, v in reference.items() if k.startswith("weight")}
    model.load_state_dict(weights)
    names = ("input_ids", "attention_mask")
    return relprop.record(model, {name: reference[name] for name in names})


def options(flavour: str) -> dict:
    return {"eps": 0.0} if flavour == "exact" else {}


def assert_meets(ours, reference, key, flavour) -> None:
    theirs = reference[key]
    assert ours.shape == theirs.shape
    worst = (ours - theirs).abs().max() / theirs.abs().max()
    assert worst <= TOLERANCE[flavour], f"{key}: {worst}"


def test_logits(trace, reference):
    assert torch.allclose(trace.logits, reference["logits"], atol=1e-12)
    assert torch.equal(trace.logits.argmax(-1), reference["predicted"])


@pytest.mark.parametrize("which", ["predicted", "other"])
@pytest.mark.parametrize("flavour", TOLERANCE)
def test_maps_of_every_block(trace, reference, flavour, which):
    target, key = reference[which], f"{flavour}/{which}"
    for name, maps in (
        ("attention", trace.attention),
        ("gradient", trace.gradient(target)),
        ("relevance", trace.relevance(target, **options(flavour))),
    ):
        assert_meets(torch.stack(maps, dim=1), reference, f"{key}/{name}", flavour)


@pytest.mark.parametrize("which", ["predicted", "other"])
@pytest.mark.parametrize("flavour", TOLERANCE)
@pytest.mark.parametrize("name", MAPS)
def test_maps_of_the_input(trace, reference, name, flavour, which):
    method, arguments = MAPS[name]
    explanation = relprop.explain_trace(
        trace, reference[which], method, **options(flavour), **arguments
    )
    ours = with_class_token_entry(explanation.relevance, trace.valid, method)
    assert (ours[reference["attention_mask"] == 0] == 0).all()
    key = f"{flavour}/{which}/{name}"
    if reference[key].isnan().any():
        # The published code scales a map that is 0 everywhere by 0/0; ours stays 0.
        assert name == "gradcam" and reference[key].nan_to_num().abs().max() == 0
        assert (ours == 0).all()
    else:
        assert_meets(ours, reference, key, flavour)


def test_no_array_is_left_out(reference):
    inputs = {"input_ids", "attention_mask", "logits", "predicted", "other"}
    tested = {
        f"{flavour}/{which}/{name}"
        for flavour in TOLERANCE
        for which in ("predicted", "other")
        for name in (*ARRAYS, *MAPS)
    }
    assert {name for name in reference if not name.startswith("weight/")} == inputs | tested
