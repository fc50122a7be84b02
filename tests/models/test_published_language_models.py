"""explain.py --hf on causal language models: why a token comes next."""

import pytest
import torch
from transformers import AutoTokenizer

import relprop
from lightning_modules.models.published import hf_classifier
from tests.helpers.published import TEXTS, save_language_model
from tests.models.test_published_models import explained, refusal

GIVEN = ("the cat sat on the", "a dog")


def next_logits(model, folder, text: str) -> torch.Tensor:
    """Of the model and tokenizer as transformers has them."""
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(input_ids=ids).logits[0, -1]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3"])
def test_the_next_token_is_explained_as_of_the_text_alone(tmp_path, kind):
    folder = tmp_path / "model"
    model = save_language_model(folder, kind)
    numbers, arrays, page = explained(
        *(tmp_path / "out", "--hf", folder, "--text", *GIVEN, "--method", "attnlrp"),
    )
    for text, entry, shown in zip(GIVEN, numbers["inputs"], page["inputs"], strict=True):
        logits = next_logits(model, folder, text)
        assert entry["logit"] == pytest.approx(logits.tolist(), rel=1e-3, abs=1e-5)
        assert entry["classes"] == [entry["predicted"]] == [int(logits.argmax())]
        tokens = AutoTokenizer.from_pretrained(folder)(
            text, return_tensors="pt", return_offsets_mapping=True
        )
        ids = {"input_ids": tokens["input_ids"]}
        alone = relprop.explain(model, ids, None, "attnlrp", position=-1).relevance[0]
        ends = tokens["offset_mapping"][0, :, 1]
        of_words = [
            max(alone[i] for i, end in enumerate(ends) if start < end <= stop).item()
            for start, stop in entry["words"]
        ]
        assert entry["relevance"]["attnlrp"][0] == pytest.approx(of_words, rel=1e-3, abs=1e-6)
        assert shown["parts"][0]["pieces"][1::2] == text.split()
    assert arrays["logit"].shape == (2, len(numbers["class_names"]))


def test_a_token_is_asked_for_as_it_stands_in_the_text_or_by_its_id(tmp_path, capsys):
    folder = tmp_path / "model"
    save_language_model(folder)
    names = hf_classifier(str(folder)).hparams.class_names
    mat, dog = names.index(" mat"), names.index(" dog")
    numbers, _, page = explained(
        *(tmp_path / "out", "--hf", folder, "--text", GIVEN[0]),
        *("--target", " mat", str(dog), "--against", " cat"),
    )
    assert numbers["inputs"][0]["classes"] == [mat, dog] and numbers["against"] == " cat"
    assert page["classNames"][str(mat)] == '" mat"'
    assert page["heading"].startswith('Why rather than " cat"?')
    message = refusal(capsys, "--hf", folder, "--text", "a", "--target", "moat")
    assert '--target moat: no such class; accepted: mat, " mat"' in message
    capsys.readouterr()
    explained(tmp_path / "out", "--hf", folder, "--text", GIVEN[0])
    assert "predicted" in capsys.readouterr().out


def test_tokens_are_named_as_they_stand_in_a_text(tmp_path):
    save_language_model(tmp_path / "bytes")
    names = hf_classifier(str(tmp_path / "bytes")).hparams.class_names
    assert {" cat", "cat", "!", "<|endoftext|>", r"\n"} < set(names)
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(names)
    save_language_model(tmp_path / "sentences", "llama")
    names = hf_classifier(str(tmp_path / "sentences")).hparams.class_names
    assert {" cat", "t", "<s>", r"\n", "<0xE2>"} < set(names)


def test_of_a_text_that_is_too_long_the_end_is_read(tmp_path):
    folder = tmp_path / "model"
    model = save_language_model(folder)
    text = "the " * 40 + "cat sat"
    numbers, _, _ = explained(tmp_path / "out", "--hf", folder, "--text", text)
    (entry,) = numbers["inputs"]
    (relevance,) = entry["relevance"]["transformer_attribution"]
    assert relevance[0] is None and None not in relevance[-30:]
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")["input_ids"][:, -32:]
    logits = model(input_ids=ids).logits[0, -1]
    assert entry["logit"] == pytest.approx(logits.tolist(), rel=1e-3, abs=1e-5)


def test_a_model_that_reads_in_both_directions_says_no_next_token(tmp_path, capsys):
    save_language_model(tmp_path / "model", "bert")
    message = refusal(capsys, "--hf", tmp_path / "model", "--text", TEXTS[0])
    assert "it reads texts in both directions; accepted: the hub id or folder of a ca" in message


def test_a_picture_for_a_language_model_is_told(tmp_path, capsys):
    save_language_model(tmp_path / "model")
    (tmp_path / "a.png").touch()
    message = refusal(capsys, "--hf", tmp_path / "model", "--input", tmp_path / "a.png")
    assert "the classifier is of texts, this is an image" in message
