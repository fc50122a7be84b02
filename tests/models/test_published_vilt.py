"""explain.py --hf on ViLT, whose pictures have shapes of their own, and on its like of features."""

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoImageProcessor, AutoTokenizer

import relprop
from tests.helpers.published import READER, TEXTS, photo, save_vilt
from tests.models.test_published_models import explained, refusal

SHAPES = {"lying": (96, 48), "upright": (48, 64)}  # width, height
PATCHES = {"lying": (3, 6), "upright": (5, 4)}  # of 8 pixels; sides are at most 5 / 3 as long


@pytest.fixture(scope="module")
def vilt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vilt")
    model = save_vilt(folder / "model", id2label={0: "no", 1: "yes", 2: "two"})
    for name, size in SHAPES.items():
        photo(*size).save(folder / f"{name}.png")
    return folder, model


def inputs_of(folder, size: tuple[int, int]) -> dict[str, torch.Tensor]:
    """As transformers makes them of one picture and one text."""
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")
    processor = AutoImageProcessor.from_pretrained(folder)
    inputs = dict(processor(images=[photo(*size)], return_tensors="pt"))
    return inputs | {name: tokens[name] for name in ("input_ids", "attention_mask")}


def test_pictures_of_several_shapes_have_maps_of_their_own_as_each_alone(vilt):
    folder, model = vilt
    methods = ("attnlrp", "transformer_attribution")
    numbers, arrays, page = explained(
        *(folder / "out", "--hf", folder / "model", "--input", f"{folder}/*.png"),
        *("--text", TEXTS[0], "--target", "yes", "--method", *methods),
    )
    assert (numbers["class_names"], numbers["activation"]) == (["no", "yes", "two"], "sigmoid")
    for (name, size), entry in zip(SHAPES.items(), numbers["inputs"], strict=True):
        inputs = inputs_of(folder / "model", size)
        for method in methods:
            alone = relprop.explain(model, inputs, 1, method)
            assert entry["logit"] == pytest.approx(alone.logits[0].tolist(), rel=1e-3)
            found = np.array(entry["sources"]["image"]["relevance"][method][0])
            theirs = alone.sources["pixel_values"].relevance.view(PATCHES[name])
            np.testing.assert_allclose(found, theirs, rtol=2e-3, atol=1e-6)
        assert entry["sources"]["image"]["region"] == [0, 0, 1, 1]
        assert entry["sources"]["image"]["size"] == list(size)
    assert arrays["relevance/image/attnlrp"].shape == (2, 1, 5, 6)
    assert [x["parts"][0]["size"] for x in page["inputs"]] == [list(x) for x in SHAPES.values()]


def test_maps_of_pixels_are_pooled_on_the_page_whatever_shape_the_picture_has(vilt):
    folder, _ = vilt
    *_, page = explained(
        *(folder / "pixels", "--hf", folder / "model", "--input", folder / "upright.png"),
        *("--text", TEXTS[0], "--method", "attnlrp", "level=input"),
    )
    (entry,) = page["inputs"]
    assert entry["parts"][0]["maps"]["attnlrp"]["pixels"] == 2  # 40 x 32 pixels


def test_a_vilt_that_retrieves_scores_the_match(tmp_path):
    save_vilt(tmp_path / "model", "ViltForImageAndTextRetrieval")
    photo().save(tmp_path / "a.png")
    numbers, _, _ = explained(
        *(tmp_path / "out", "--hf", tmp_path / "model", "--input", tmp_path / "a.png"),
        *("--text", TEXTS[0]),
    )
    assert (numbers["class_names"], numbers["activation"]) == (["match"], None)


@pytest.mark.parametrize("kind", ["Lxmert", "VisualBert"])
def test_a_model_of_features_is_refused_with_what_to_do(tmp_path, capsys, kind):
    config = getattr(transformers, f"{kind}Config")(**READER)
    config.architectures = [f"{kind}ForQuestionAnswering"]
    config.save_pretrained(tmp_path)
    photo().save(tmp_path / "a.png")
    message = refusal(capsys, "--hf", tmp_path, "--input", tmp_path / "a.png", "--text", "a")
    assert f"it is a {kind}ForQuestionAnswering, which reads the features of a detector" in message
    assert "accepted: relprop.explain in Python" in message
