"""explain.py --hf on image classifiers: their pixels are those of their own processor."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor

import explain
import relprop
from lightning_modules.models.published import hf_classifier
from tests.helpers.published import IMAGE_CLASSIFIERS, photo, save_image_classifier
from tests.models.test_published_models import explained, refusal, rewrite

LABELS = {0: "cat", 1: "dog", 2: "bird"}
WHOLE, SQUARE = [0, 0, 1, 1], [0.1, 0.1, 0.9, 0.9]
REGIONS = {"DeiT": SQUARE, "Beit": SQUARE, "Dinov2": [0.2, 0.1, 0.8, 0.9]}
# The shorter side becomes int(32 / 0.875) = 36 pixels, of which 32 are kept.
REGIONS |= dict.fromkeys(["ConvNext", "ResNet"], [1 / 6, 1 / 18, 5 / 6, 17 / 18])


@pytest.mark.parametrize("kind", IMAGE_CLASSIFIERS)
def test_an_image_classifier_is_explained_on_the_pixels_of_its_own_processor(tmp_path, kind):
    model = save_image_classifier(tmp_path / "model", kind, id2label=LABELS)
    photo().save(tmp_path / "a.png")
    method = "attnlrp" if kind in ("ConvNext", "ResNet") else "transformer_attribution"
    numbers, arrays, page = explained(
        *(tmp_path / "out", "--hf", tmp_path / "model", "--input", tmp_path / "a.png"),
        *("--target", "dog", "--method", method),
    )
    (entry,) = numbers["inputs"]
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model")
    inputs = {"pixel_values": processor(images=[photo()], return_tensors="pt")["pixel_values"]}
    expected = relprop.explain(model, inputs, 1, method)
    assert entry["logit"] == pytest.approx(expected.logits[0].tolist(), rel=1e-4)
    found = torch.tensor(entry["relevance"][method])
    theirs = expected.relevance.unflatten(-1, expected.grid)
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-6)
    assert entry["region"] == pytest.approx(REGIONS.get(kind, WHOLE))
    assert numbers["class_names"] == ["cat", "dog", "bird"] and entry["classes"] == [1]
    np.testing.assert_allclose(arrays[f"relevance/{method}"][0], found, rtol=1e-6)
    assert page["inputs"][0]["parts"][0]["shown"] == "picture"


@pytest.mark.parametrize("kind", ["ConvNext", "ResNet"])
def test_a_method_that_a_model_has_nothing_for_names_one_that_explains_it(tmp_path, capsys, kind):
    save_image_classifier(tmp_path / "model", kind)
    photo().save(tmp_path / "a.png")
    message = refusal(
        *(capsys, "--hf", tmp_path / "model", "--input", tmp_path / "a.png"),
        *("--output", tmp_path / "out"),
    )
    assert "--method transformer_attribution: no attention map was seen" in message
    assert message.endswith("--method attnlrp explains this model")


def test_of_several_methods_those_that_refuse_are_left_out(tmp_path, capsys):
    save_image_classifier(tmp_path / "model", "ConvNext")
    photo().save(tmp_path / "a.png")
    options = [*("--hf", tmp_path / "model", "--input", tmp_path / "a.png"), "--format", "json"]
    options += ["--output", tmp_path / "out", "--method"]
    explain.main([*map(str, options), "rollout", "attnlrp", "gradcam"])
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": no ")[0] for line in lines if "left out" in line] == [
        f"explain.py: left out: --method {name}" for name in ("rollout", "gradcam")
    ]
    (entry,) = json.loads((tmp_path / "out" / "explanations.json").read_text())["inputs"]
    assert list(entry["relevance"]) == ["attnlrp"]
    message = refusal(capsys, *options, "rollout", "gradcam")
    assert "--method gradcam: no attention map was seen" in message


def test_mean_and_std_are_those_that_come_out_of_the_processor(tmp_path):
    save_image_classifier(tmp_path, "ResNet")
    config = hf_classifier(str(tmp_path)).hparams.input_config
    assert config["mean"] == pytest.approx([0.485, 0.456, 0.406], abs=1e-5)
    assert config["std"] == pytest.approx([0.229, 0.224, 0.225], abs=1e-5)
    assert config["input_size"] == [3, 32, 32] and config["crop_mode"] == "center"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": {"shortest_edge": 32}, "do_center_crop": False}, "it gives no scores"),
        ({"size": {"height": 40, "width": 40}, "do_resize": False}, "is not understood"),
        ({"image_processor_type": "NoSuchProcessor"}, "no image processor can be read"),
    ],
)
def test_a_processor_that_is_not_understood_is_told(tmp_path, capsys, changes, said):
    save_image_classifier(tmp_path / "model", "ViT")
    rewrite(tmp_path / "model" / "preprocessor_config.json", **changes)
    message = refusal(capsys, "--hf", tmp_path / "model", "--input", __file__)
    assert said in message and "accepted: " in message


def test_an_image_classifier_without_its_processor_or_head_is_told(tmp_path, capsys):
    model = save_image_classifier(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    message = refusal(capsys, "--hf", tmp_path / "model", "--input", __file__)
    assert "no image processor" in message and "an image classifier with its image" in message
    model.base_model.save_pretrained(tmp_path / "model")
    message = refusal(capsys, "--hf", tmp_path / "model", "--input", __file__)
    assert "no trained head (no classifier.bias)" in message


def test_a_model_of_no_known_kind_is_told(tmp_path, capsys):
    save_image_classifier(tmp_path / "model")
    rewrite(tmp_path / "model" / "config.json", architectures=["ViTForMaskedImageModeling"])
    message = refusal(capsys, "--hf", tmp_path / "model", "--input", __file__)
    assert "it is a ViTForMaskedImageModeling; accepted: the hub id or folder of" in message
    assert "a text classifier, an image classifier, a causal language model" in message
