"""A new run begins from the weights of an earlier one, whose head is of the classes it names."""

import pytest
import timm
import torch
from transformers import BertConfig, BertForSequenceClassification

import explain
import train
from lightning_modules import ViTClassifier
from lightning_modules.data.images.imagenet import imagenet_names
from lightning_modules.data.texts.tokenizers import train_tokenizer
from tests.commands.test_edges import image_folder, text_table
from tests.commands.test_options import assert_says, told
from tests.helpers.runs import TRAINER, load, run

CLASSES = ["cat", "dog", "emu"]
KINDS = pytest.mark.parametrize("data", [image_folder, text_table])
NO_STEP = ["tracker=null", "trainer.max_epochs=1", "model.lr=0.0", "model.weight_decay=0.0"]


def fit(run_dir, options, *more):
    train.main([*TRAINER, *options, *NO_STEP, f"run_dir={run_dir}", *more])
    return load(run_dir)["state_dict"]


def head_of(state: dict) -> torch.Tensor:
    return state.get("backbone.head.weight", state.get("backbone.classifier.weight"))


@pytest.fixture
def old(tmp_path):
    """Makes a run on three classes; gives its folder, and options of another run."""

    def make(data):
        (tmp_path / "old-data").mkdir()
        options = data(tmp_path / "old-data", train=CLASSES, val=CLASSES)
        fit(tmp_path / "old", options, "seed=3", "model.lr=1e-3")
        return tmp_path / "old", options

    return make


def test_weights_of_a_run_are_those_it_ended_with(tmp_path, old):
    for number, data in enumerate((image_folder, text_table)):
        (tmp_path / f"{number}").mkdir()
        options = data(tmp_path / f"{number}", train=CLASSES, val=CLASSES)
        run_dir = tmp_path / f"old{number}"
        expected = fit(run_dir, options, "seed=3", "model.lr=1e-3")
        for place in (run_dir, run_dir / "checkpoints" / "best.ckpt"):
            state = fit(tmp_path / f"new-{number}-{place.name}", options, f"model.weights={place}")
            assert all(torch.equal(state[name], expected[name]) for name in expected)


@KINDS
def test_the_head_follows_the_names_of_the_classes(tmp_path, old, data, capsys):
    run_dir, options = old(data)
    trained = load(run_dir)["state_dict"]
    state = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)
    state["hyper_parameters"]["class_names"] = ["emu", "cat", "dog"]  # another order
    torch.save(state, tmp_path / "turned.ckpt")
    found = fit(tmp_path / "turned", options, f"model.weights={tmp_path / 'turned.ckpt'}")
    assert torch.equal(head_of(found), head_of(trained)[[1, 2, 0]])

    state["hyper_parameters"]["class_names"] = ["fox", "cat", "dog"]  # as many others
    torch.save(state, tmp_path / "others.ckpt")
    capsys.readouterr()
    found = fit(tmp_path / "others", options, f"model.weights={tmp_path / 'others.ckpt'}")
    assert not any(torch.equal(row, other) for row in head_of(found) for other in head_of(trained))
    said = capsys.readouterr().err.splitlines()
    (line,) = [line for line in said if "head is left out" in line]
    assert "only here 'emu'; only there 'fox'" in line
    body = [name for name in trained if name.startswith("backbone.") and "head" not in name]
    body = [name for name in body if "classifier" not in name]
    assert all(torch.equal(found[name], trained[name]) for name in body)


def test_weights_of_another_kind_or_of_none_are_refused(tmp_path, old, capsys):
    run_dir, _ = old(text_table)
    (tmp_path / "data").mkdir()
    options = [*TRAINER, *image_folder(tmp_path / "data", train=CLASSES, val=CLASSES)]
    options.append(f"run_dir={tmp_path / 'new'}")
    message = told(capsys, train.main, [*options, f"model.weights={run_dir}"])
    assert_says(message, f"model.weights {run_dir} | kind bert | accepted: one of vit")
    message = told(capsys, train.main, [*options, f"model.weights={tmp_path / 'data'}"])
    assert_says(message, "model.weights | no checkpoint is there | accepted: the folder of a run")
    assert not (tmp_path / "new" / "config.yaml").exists()


def test_a_run_begun_so_needs_the_old_one_no_more(tmp_path, old):
    run_dir, options = old(image_folder)
    fit(tmp_path / "new", options, f"model.weights={run_dir}")
    run_dir.rename(tmp_path / "elsewhere")
    train.main(["--resume", str(tmp_path / "new"), "trainer.max_epochs=2"])
    picture = tmp_path / "old-data" / "val" / "cat" / "0.png"
    arguments = ["--input", str(picture), "--output", str(tmp_path / "out"), "--format", "json"]
    explain.main(["--checkpoint", str(tmp_path / "new"), *arguments])


def test_embeddings_are_of_the_tokens_they_were_trained_on(tmp_path, capsys):
    """Another data set makes another tokenizer: every embedding would be of another piece."""
    options = ["trainer.max_epochs=1", "tracker=null"]
    old = run(tmp_path / "old", *options, experiment="reviews")
    other = [*options, "data.vocab_size=299", "model.config.vocab_size=300", f"model.weights={old}"]
    message = told(capsys, run, tmp_path / "new", *other, experiment="reviews")
    assert_says(message, f"another tokenizer | accepted: data.tokenizer={old}")
    new = run(tmp_path / "new", *other[:2], other[4], f"data.tokenizer={old}", experiment="reviews")
    ours, theirs = (load(x)["hyper_parameters"]["input_config"] for x in (new, old))
    assert ours["tokenizer"] == theirs["tokenizer"]


@pytest.fixture
def folder(tmp_path):
    """Makes a folder of a trained Hugging Face model, with a tokenizer, and its head."""

    def make(labels: list[str] | None):
        texts = [f"a {name} film {n}" for name in CLASSES for n in range(2)]
        tokenizer = train_tokenizer(texts, 60)
        tokenizer.save_pretrained(tmp_path / "model")
        sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
        names = {} if labels is None else {"id2label": dict(enumerate(labels))}
        config = BertConfig(vocab_size=60, intermediate_size=16, num_labels=3, **sizes, **names)
        model = BertForSequenceClassification(config)
        model.save_pretrained(tmp_path / "model")
        return tmp_path / "model", model.classifier.weight.detach()

    return make


@pytest.mark.parametrize(
    ("labels", "order", "told"),
    [
        (["Cat", "Dog", "Emu"], [0, 1, 2], None),
        (["emu", "cat", "dog"], [1, 2, 0], None),
        (["fox", "cat", "dog"], None, "the head is left out, its classes are others"),
        (None, [0, 1, 2], "the head is kept; its 3 classes have no names there"),  # LABEL_0, ...
    ],
)
def test_the_head_of_a_pretrained_text_model_follows_its_names(
    tmp_path, folder, labels, order, told, capsys
):
    model, head = folder(labels)
    (tmp_path / "data").mkdir()
    options = text_table(tmp_path / "data", train=CLASSES, val=CLASSES)
    options = [option for option in options if "model.config" not in option]
    options += ["model.config=null", f"model.name={model}", f"data.tokenizer={model}"]
    found = fit(tmp_path / "new", options)["backbone.classifier.weight"]
    if order is None:
        assert not any(torch.equal(row, other) for row in found for other in head)
    else:
        assert torch.equal(found, head[order])
    lines = [line for line in capsys.readouterr().err.splitlines() if "the head is" in line]
    assert len(lines) == (told is not None) and all(told in line for line in lines)


def test_a_pretrained_head_of_a_thousand_others_is_left_out(tmp_path):
    """timm's weights are of ImageNet's classes, whose number proves nothing."""
    sizes = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    torch.manual_seed(3)
    trained = timm.create_model("vit_tiny_patch16_224", img_size=32, **sizes)
    torch.save(trained.state_dict(), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth"), "num_classes": 1000}
    inputs = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    for names, same in ((imagenet_names(), True), ([f"mine {n}" for n in range(1000)], False)):
        options = sizes | {"pretrained_cfg_overlay": overlay}
        model = ViTClassifier(
            names, inputs, "vit_tiny_patch16_224", pretrained=True, model_options=options
        )
        assert torch.equal(model.backbone.head.weight, trained.head.weight) == same
        assert torch.equal(model.backbone.cls_token, trained.cls_token)
