"""explain.py on models that were trained elsewhere: what their numbers are, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertForMultipleChoice,
    ModernBertForTokenClassification,
)

import explain
import relprop
from lightning_modules.models.explaining_texts import with_class_token_entry
from lightning_modules.models.published import hf_classifier, timm_classifier
from tests.commands.test_page import data_of
from tests.helpers.published import TEXTS, save_text_classifier

ALL_FORMATS = ("--format", "png,html,npz,json", "--device", "cpu")
LABELS = {0: "joy", 1: "anger", 2: "love"}


def explained(folder: Path, *arguments) -> tuple[dict, dict, dict]:
    """What a call has written: its JSON, its arrays, the data of its page."""
    explain.main([*map(str, arguments), "--output", str(folder), *ALL_FORMATS])
    numbers = json.loads((folder / "explanations.json").read_text())
    page = data_of((folder / "explanations.html").read_text())
    return numbers, dict(np.load(folder / "explanations.npz")), page


def refusal(capsys, *arguments) -> str:
    """The one line of a call that fails."""
    with pytest.raises(SystemExit) as exit_:
        explain.main(list(map(str, arguments)))
    assert exit_.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("explain.py: ") and "accepted: " in message, message
    return message


def text_refusal(capsys, folder: Path) -> str:
    output = ("--output", folder.parent / "out")
    message = refusal(capsys, "--hf", folder, "--text", TEXTS[0], *output)
    assert f"--hf {folder}: " in message
    return message


def logits_of(model, folder: Path, text: str) -> torch.Tensor:
    """Of the model and tokenizer as transformers has them."""
    encoded = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    names = ("input_ids", "attention_mask")
    with torch.no_grad():
        return model(**{name: encoded[name] for name in names}).logits[0]


def rewrite(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# ------------------------------------------------------------------------- what the numbers are


def test_labels_that_go_together_have_sigmoids(tmp_path, capsys):
    folder = tmp_path / "model"
    model = save_text_classifier(folder, problem_type="multi_label_classification", id2label=LABELS)
    numbers, arrays, page = explained(
        *(tmp_path / "out", "--hf", folder, "--text", *TEXTS, "--target", "all")
    )
    printed = capsys.readouterr().out
    assert numbers["activation"] == page["activation"] == "sigmoid"
    for i, text in enumerate(TEXTS):
        logits = logits_of(model, folder, text)
        expected = (1 / (1 + (-logits.double()).exp())).tolist()
        entry = numbers["inputs"][i]
        assert entry["probability"] == pytest.approx(expected, rel=1e-4)
        assert arrays["probability"][i] == pytest.approx(expected, rel=1e-4)
        for shown in page["inputs"][i]["classes"]:
            assert shown["value"] == pytest.approx(expected[shown["index"]], rel=1e-4)
        assert entry["logit"] == pytest.approx(logits.tolist(), rel=1e-4)
        most = int(np.argmax(expected))
        assert entry["predicted"] == most and entry["classes"][0] == most
        assert f"text {i + 1}: {LABELS[most]} p = {max(expected):.2f} most probable" in printed
        assert sum(expected) > 1.2  # so that a softmax is another thing


def test_a_label_is_the_likeliest_where_sigmoids_are_all_1(tmp_path):
    folder = tmp_path / "model"
    model = save_text_classifier(folder, problem_type="multi_label_classification")
    model.classifier.bias.data = torch.tensor([50.0, 60.0, 55.0])
    model.save_pretrained(folder)
    numbers, _, _ = explained(tmp_path / "out", "--hf", folder, "--text", TEXTS[0])
    (entry,) = numbers["inputs"]
    assert entry["probability"] == [1, 1, 1] and entry["predicted"] == 1 == entry["classes"][0]


ONE_OUTPUT = [({"num_labels": 1}, None), ({"num_labels": 1, "problem_type": "regression"}, None)]
MULTI = {"num_labels": 1, "problem_type": "multi_label_classification"}


@pytest.mark.parametrize(("config", "activation"), [*ONE_OUTPUT, (MULTI, "sigmoid")])
def test_one_output_is_a_number_unless_it_is_said_to_be_a_label(
    tmp_path, capsys, config, activation
):
    folder = tmp_path / "model"
    model = save_text_classifier(folder, **config)
    numbers, arrays, page = explained(tmp_path / "out", "--hf", folder, "--text", *TEXTS)
    printed = capsys.readouterr().out
    assert numbers["activation"] == page["activation"] == activation
    for i, text in enumerate(TEXTS):
        (logit,) = logits_of(model, folder, text).tolist()
        entry, shown = numbers["inputs"][i], page["inputs"][i]
        assert entry["logit"] == pytest.approx([logit], rel=1e-4) and entry["classes"] == [0]
        assert arrays["logit"][i] == pytest.approx([logit], rel=1e-4)
        if activation is None:
            assert entry["probability"] is None and entry["predicted"] is None
            assert "probability" not in arrays
            assert shown["value"] == pytest.approx(logit, rel=1e-4)
            assert f"text {i + 1}: LABEL_0 = {entry['logit'][0]:.4g}\n" in printed
        else:
            p = 1 / (1 + np.exp(-logit))
            assert entry["probability"] == pytest.approx([p], rel=1e-4)
            assert f"text {i + 1}: LABEL_0 p = {p:.2f}\n" in printed
    assert (" p = " in printed) == (activation is not None) and "predicted" not in printed


def test_several_numbers_are_all_explained_in_their_order(tmp_path, capsys):
    folder = tmp_path / "model"
    save_text_classifier(folder, problem_type="regression", id2label=LABELS)
    numbers, _, page = explained(tmp_path / "out", "--hf", folder, "--text", *TEXTS)
    for entry, shown in zip(numbers["inputs"], page["inputs"], strict=True):
        assert entry["classes"] == [0, 1, 2] and entry["probability"] is None
        assert [value["value"] for value in shown["classes"]] == entry["logit"]
    output = ("--output", tmp_path / "out")
    message = refusal(capsys, "--hf", folder, "--text", TEXTS[0], "--target", "top2", *output)
    assert "--target top2" in message and "joy, anger, love" in message
    assert "predicted" not in message


def test_a_picture_model_of_one_output_is_explained_as_relprop_does(tmp_path, capsys):
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=1, img_size=64).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "output").mkdir()
    Image.fromarray(noise).save(tmp_path / "output" / "picture.png")  # in a folder of that name
    name, picture = f"test_vit@{tmp_path / 'weights.pth'}", tmp_path / "output" / "picture.png"
    numbers, _, page = explained(tmp_path / "out", "--timm", name, "--input", picture)
    (entry,) = numbers["inputs"]
    batch = timm_classifier(name).prepare([Image.open(picture)])
    expected = relprop.explain(model, batch["image"], 0)
    map_ = torch.tensor(entry["relevance"]["transformer_attribution"]).flatten()
    torch.testing.assert_close(map_, expected.relevance[0], rtol=1e-4, atol=1e-6)
    assert entry["logit"] == pytest.approx(expected.logits[0].tolist(), rel=1e-4)
    assert entry["probability"] is None and entry["predicted"] is None and entry["label"] is None
    assert numbers["class_names"] == ["output"] and page["inputs"][0]["correct"] is None
    assert f"output = {entry['logit'][0]:.4g}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "config", [{"num_labels": 1}, {"problem_type": "multi_label_classification", "num_labels": 2}]
)
def test_a_model_is_not_scored_on_labels_of_another_task(tmp_path, capsys, config):
    save_text_classifier(tmp_path / "model", **config)
    message = refusal(
        *(capsys, "evaluate", "--hf", tmp_path / "model", "--protocol", "sanity"),
        *("data.kind=reviews", "data.train_size=20", "data.val_size=10", "data.test_size=10"),
        *("--output", tmp_path / "out"),
    )
    task = "multilabel" if "problem_type" in config else "regression"
    assert f"the labels of the data are multiclass, and the model is {task}; accepted" in message
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------ families

DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
EXPLAINED = {  # model_type: sizes of its own, and tokens that 64 positions hold
    "bert": ({}, 64),
    "distilbert": (DISTILBERT, 64),
    "roberta": ({}, 63),  # counts from pad_token_id + 1 on, which is 1 here
    "xlm-roberta": ({}, 63),
    "camembert": ({}, 63),
    "electra": ({"embedding_size": 32}, 64),
    "albert": ({"embedding_size": 16}, 64),
    "mpnet": ({}, 62),  # has padding at 1, whatever pad_token_id is
    "esm": ({"position_embedding_type": "rotary"}, 64),
    "modernbert": ({}, 64),
    "rembert": ({"input_embedding_size": 16}, 64),
    "flaubert": ({"emb_dim": 32, "n_layers": 2, "n_heads": 2}, 64),
}


@pytest.mark.parametrize("kind", EXPLAINED)
def test_a_family_is_explained_as_the_model_that_transformers_runs(tmp_path, kind):
    """Also a text among longer ones; of one that is too long, what the positions hold."""
    sizes, most = EXPLAINED[kind]
    model = save_text_classifier(tmp_path, kind, **sizes)
    classifier = hf_classifier(str(tmp_path))
    assert classifier.hparams.input_config["max_length"] == most
    batch = classifier.prepare([TEXTS[0], "the cat sat on " * 50])
    ours = classifier.explain(batch, 1)
    expected = logits_of(model, tmp_path, TEXTS[0])
    torch.testing.assert_close(ours.logits[0], expected, rtol=1e-4, atol=1e-5)
    tokens = AutoTokenizer.from_pretrained(tmp_path)(TEXTS[0], return_tensors="pt")["input_ids"]
    alone = relprop.explain(model, {"input_ids": tokens}, 1, normalize_rows=True).relevance
    alone = with_class_token_entry(alone, torch.ones_like(tokens).bool(), "transformer_attribution")
    length = tokens.shape[1]
    torch.testing.assert_close(ours.relevance[:1, :length], alone, rtol=2e-3, atol=1e-5)
    assert ours.seen.sum(dim=1).tolist() == [6, most - 2]


LAYERS = {"encoder_layers": 2, "decoder_layers": 2}
LAYERS |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
BOTH = {  # with an encoder and a decoder
    "bart": LAYERS | {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "decoder_start_token_id": 0},
}


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("method", ["transformer_attribution", "attnlrp"])
def test_a_text_that_is_read_twice_has_a_map_of_each_time(tmp_path, kind, method):
    """In a batch with a longer text, as alone."""
    model = save_text_classifier(tmp_path / "model", kind, forced_eos_token_id=None, **BOTH[kind])
    numbers, arrays, page = explained(
        *(tmp_path / "out", "--hf", tmp_path / "model", "--text", *TEXTS, "--target", "1"),
        *("--method", method),
    )
    for text, entry, shown in zip(TEXTS, numbers["inputs"], page["inputs"], strict=True):
        tokens = AutoTokenizer.from_pretrained(tmp_path / "model")(
            text, return_tensors="pt", return_offsets_mapping=True
        )
        alone = relprop.explain(model, {"input_ids": tokens["input_ids"]}, 1, method)
        assert entry["logit"] == pytest.approx(alone.logits[0].tolist(), rel=1e-3)
        ends = tokens["offset_mapping"][0, :, 1].tolist()
        # The decoder has every token one place later.
        for name, source, later in (("text", "input_ids", 0), ("decoder", "input_ids_2", 1)):
            scores = alone.sources[source].relevance[0]
            part = entry["sources"][name]
            of_words = [
                max(scores[i + later].item() for i, end in enumerate(ends) if start < end <= stop)
                for start, stop in part["words"]
            ]
            assert part["relevance"][method][0] == pytest.approx(of_words, rel=5e-3, abs=1e-5)
        assert [part["source"] for part in shown["parts"]] == ["text", "decoder"]
    assert {f"relevance/text/{method}", f"relevance/decoder/{method}"} <= set(arrays)


def test_a_model_that_reads_a_text_twice_is_not_scored(tmp_path, capsys):
    save_text_classifier(tmp_path / "model", "bart", **BOTH["bart"])
    message = refusal(
        *(capsys, "evaluate", "--hf", tmp_path / "model", "--protocol", "sanity"),
        *("data.kind=reviews", "data.train_size=20", "data.val_size=10", "data.test_size=10"),
        *("--output", tmp_path / "out"),
    )
    assert "the model reads its input 2 times" in message and not (tmp_path / "out").exists()


REFUSED = {  # model_type: sizes of its own, and what the line says
    "t5": ({"d_model": 32, "d_kv": 16, "d_ff": 64}, "decoder_start_token_id"),
    "xlnet": (
        {"d_model": 32, "n_layer": 2, "n_head": 2, "max_position_embeddings": None},
        "ids are embedded as",
    ),
    "fnet": ({}, "fftn"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_family_that_cannot_be_explained_is_told(tmp_path, kind, capsys):
    sizes, said = REFUSED[kind]
    save_text_classifier(tmp_path / "model", kind, **sizes)
    with pytest.raises(SystemExit) as exit_:
        explain.main(
            [
                *("--hf", str(tmp_path / "model"), "--text", *TEXTS),
                "--output",
                str(tmp_path / "out"),
            ]
        )
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert exit_.value.code == 2 and message.startswith("explain.py: ") and said in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_saved_in_half_precision_is_explained_in_float32(tmp_path, dtype):
    model = save_text_classifier(tmp_path).to(dtype)
    model.save_pretrained(tmp_path)
    classifier = hf_classifier(str(tmp_path))
    assert {parameter.dtype for parameter in classifier.parameters()} == {torch.float32}
    ours = classifier(classifier.prepare(TEXTS[:1]))[0]
    torch.testing.assert_close(ours, logits_of(model.float(), tmp_path, TEXTS[0]))


# ------------------------------------------------------------------------------- what is no such


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"problem_type": "ranking"}, "'ranking'"),
        ({"id2label": {"1": "a", "2": "b", "3": "c"}}, "labels 1, 2, 3; accepted: 0 to 2"),
        ({"id2label": {"0": "a", "1": "b"}}, "shape [3]"),
        ({"hidden_size": 48}, "config.json asks for [48]"),
        ({"architectures": ["BertForTokenClassification"]}, "BertForTokenClassification"),
        ({"model_type": "vit"}, "ViTConfig"),
        ({"num_labels": 1, "id2label": None, "problem_type": "single_label_classification"}, "1"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_is_told(tmp_path, capsys, changes, said):
    save_text_classifier(tmp_path / "model")
    rewrite(tmp_path / "model" / "config.json", **changes)
    assert said in text_refusal(capsys, tmp_path / "model")


@pytest.mark.parametrize(
    ("kind", "cls"),
    [("modernbert", ModernBertForTokenClassification), ("bert", BertForMultipleChoice)],
)
def test_a_head_of_another_task_with_the_same_weights_is_told(tmp_path, capsys, kind, cls):
    save_text_classifier(tmp_path / "model", kind, num_labels=1)
    cls(AutoConfig.from_pretrained(tmp_path / "model")).save_pretrained(tmp_path / "model")
    assert cls.__name__ in text_refusal(capsys, tmp_path / "model")


def test_a_broken_file_of_weights_is_told(tmp_path, capsys):
    save_text_classifier(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "deserializing" in text_refusal(capsys, tmp_path / "model")


def test_a_timm_model_without_classes_is_told(capsys):
    given = ("--timm", "vit_small_patch14_dinov2", "--input", __file__)
    assert "no classes" in refusal(capsys, *given)


def test_weights_for_pictures_that_are_not_square_are_told(tmp_path, capsys):
    model = timm.create_model("test_vit", num_classes=3, img_size=(64, 96))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    message = refusal(capsys, "--timm", f"test_vit@{tmp_path / 'weights.pth'}", "--input", __file__)
    assert "24 patches" in message
