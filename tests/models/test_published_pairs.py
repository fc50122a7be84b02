"""explain.py --hf on models of pictures and texts: a map of each, for what is said of both."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer

import relprop
from tests.helpers.published import PAIRS, TEXTS, photo, save_pair_model
from tests.models.test_published_models import explained, refusal

OUTPUTS = {
    "clip": lambda output: output.logits_per_image,
    "siglip": lambda output: output.logits_per_image,
    "blip": lambda output: output.itm_score,
}
CLASSES = {"clip": (["match"], None), "siglip": (["match"], "sigmoid")}
CLASSES |= {"blip": (["no match", "match"], "softmax")}


def inputs_of(folder, kind: str, text: str) -> tuple[dict, torch.Tensor]:
    """As transformers makes them of one picture and one text; and the ends of the tokens."""
    padding = {"padding": "max_length", "max_length": 16} if kind == "siglip" else {}
    tokens = AutoTokenizer.from_pretrained(folder)(
        text, return_tensors="pt", return_offsets_mapping=True, **padding
    )
    processor = AutoImageProcessor.from_pretrained(folder)
    inputs = {"pixel_values": processor(images=[photo()], return_tensors="pt")["pixel_values"]}
    inputs["input_ids"] = tokens["input_ids"]
    if kind != "siglip":
        inputs["attention_mask"] = tokens["attention_mask"]
    return inputs, tokens["offset_mapping"][0, :, 1]


@pytest.mark.parametrize("kind", PAIRS)
def test_a_picture_and_each_text_have_a_map_of_both_as_the_pair_alone(tmp_path, kind):
    folder = tmp_path / "model"
    model = save_pair_model(folder, kind)
    photo().save(tmp_path / "a.png")
    numbers, arrays, page = explained(
        *(tmp_path / "out", "--hf", folder, "--input", tmp_path / "a.png"),
        *("--text", *TEXTS, "--target", "match", "--method", "attnlrp", "transformer_attribution"),
    )
    names, activation = CLASSES[kind]
    assert (numbers["class_names"], numbers["activation"]) == (names, activation)
    for text, entry, shown in zip(TEXTS, numbers["inputs"], page["inputs"], strict=True):
        inputs, ends = inputs_of(folder, kind, text)
        for method in ("attnlrp", "transformer_attribution"):
            target = names.index("match")
            alone = relprop.explain(model, inputs, target, method, output=OUTPUTS[kind])
            assert entry["logit"] == pytest.approx(alone.logits[0].tolist(), rel=1e-3)
            picture, words = (
                np.array(entry["sources"][name]["relevance"][method][0])
                for name in ("image", "text")
            )
            theirs = alone.sources["pixel_values"].relevance.view(4, 4)
            np.testing.assert_allclose(picture, theirs, rtol=2e-3, atol=1e-6)
            of_tokens = alone.sources["input_ids"].relevance[0]
            of_words = [
                max(of_tokens[i].item() for i, end in enumerate(ends) if start < end <= stop)
                for start, stop in entry["sources"]["text"]["words"]
            ]
            np.testing.assert_allclose(words, of_words, rtol=2e-3, atol=1e-6)
        assert [part["shown"] for part in shown["parts"]] == ["picture", "words"]
        assert shown["parts"][1]["pieces"][1::2] == text.split()
    assert arrays["relevance/image/attnlrp"].shape == (2, 1, 4, 4)
    assert arrays["relevance/text/attnlrp"].shape == (2, 1, max(len(x.split()) for x in TEXTS))
    pictures = list((tmp_path / "out").glob("*.png"))
    assert len(pictures) == 2 and Image.open(pictures[0]).width > 500


@pytest.fixture
def clip(tmp_path):
    save_pair_model(tmp_path / "model")
    for name in ("a", "b"):
        photo().save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(TEXTS[0])
    return tmp_path


def test_each_file_goes_with_each_text(clip):
    numbers, _, _ = explained(
        clip / "out", "--hf", clip / "model", "--input", f"{clip}/?.png", "--text", *TEXTS
    )
    assert [entry["name"] for entry in numbers["inputs"]] == [
        f"{clip / name}.png + text {number}" for name in ("a", "b") for number in (1, 2)
    ]


def test_files_of_both_go_together_by_their_names(clip):
    numbers, _, _ = explained(
        clip / "out",
        *("--hf", clip / "model", "--input", f"image={clip}/?.png", f"text={clip}/?.txt"),
    )
    assert [entry["name"] for entry in numbers["inputs"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--text", "a"], "--text: no image to go with it; accepted: --input PATH --text TEXT"),
        (["--input", "image={}/a.png"], "accepted: --input PATH --text TEXT, or --input image="),
        (["--input", "{}/a.png"], "it names no source; accepted: --input PATH --text TEXT, or"),
        (["--input", "{}/a.txt", "--text", "a"], "the classifier is of images, this is a text"),
        (["--input", "{}/a.png", "--text", "a", "--target", "mat"], "accepted: match"),
    ],
)
def test_a_picture_or_a_text_alone_is_told(clip, capsys, given, said):
    given = [text.format(clip) for text in given]
    assert said in refusal(capsys, "--hf", clip / "model", *given, "--output", clip / "out")


def test_a_pair_model_that_lacks_a_file_is_told(clip, capsys):
    given = ("--hf", clip / "model", "--input", clip / "a.png", "--text", "a")
    (clip / "model" / "preprocessor_config.json").unlink()
    message = refusal(capsys, *given)
    assert "no image processor" in message and "its tokenizer and image processor" in message
