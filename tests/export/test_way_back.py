"""An exported folder is explained by its name, and trains again."""

import pytest
import torch

import explain
from lightning_modules.data.images.processors import processed_config
from lightning_modules.data.texts.tokenizers import input_config_of
from lightning_modules.models import BertClassifier, HFImageClassifier, ViTClassifier
from lightning_modules.models.published import hf_classifier, timm_classifier
from lightning_modules.utils.errors import InputError
from tests.helpers.exports import NAMES, export, input_config, of_run, save_run
from tests.helpers.published import SIZES, VIT, photo, tokenizer_of

NAME = "vit_tiny_patch16_224"
SMALL = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
VALUES = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "crop_pct": 0.8}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each kind with its folder for transformers; the first one's is for timm, too."""
    place = tmp_path_factory.mktemp("runs")
    pictures, texts = input_config(**VALUES), input_config_of(tokenizer_of(), 24, None)
    made = {
        "vit": save_run(
            place / "vit", "vit", pictures, name=NAME, model_options=SMALL, task="multilabel"
        ),
        "hf_image": save_run(place / "hf_image", "hf_image", pictures, config=VIT),
        "bert": save_run(place / "bert", "bert", texts, config=SIZES),
    }
    return {kind: (run, export(run, "hf")) for kind, run in made.items()}


def same_decisions(run, found, content) -> None:
    """Classes, task, inputs and logits are those of the run."""
    classifier = of_run(run)
    assert found.hparams.class_names == classifier.hparams.class_names == NAMES
    assert found.task.name == classifier.task.name
    with torch.no_grad():
        ours, theirs = (x(x.prepare([content])) for x in (classifier, found))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "hf_image", "bert"])
def test_the_folder_is_explained_with_its_classes(kind, runs):
    run, folder = runs[kind]
    found = hf_classifier(str(folder))
    same_decisions(run, found, "the cat sat" if kind == "bert" else photo())
    if kind != "bert":
        assert found.hparams.input_config == input_config(**VALUES)


def test_weights_of_timm_are_explained_with_their_classes_and_options(runs, tmp_path):
    run, folder = runs["vit"]
    weights = f"{NAME}@{folder}/model.safetensors"
    same_decisions(run, timm_classifier(weights), photo())
    photo().save(tmp_path / "picture.png")
    words = ["--timm", weights, "--input", str(tmp_path / "picture.png"), "--target", NAMES[1]]
    explain.main([*words, "--format", "json", "--output", str(tmp_path / "out")])
    assert NAMES[1] in (tmp_path / "out" / "explanations.json").read_text()


def test_weights_of_another_model_of_timm_are_refused(runs):
    weights = runs["vit"][1] / "model.safetensors"
    with pytest.raises(InputError, match=f"they are of {NAME}; accepted: --timm {NAME}@"):
        timm_classifier(f"deit_tiny_patch16_224@{weights}")


def test_the_folder_trains_again_with_its_head_for_classes_in_any_order(runs):
    order = [2, 0, 1]
    names = [NAMES[place] for place in order]
    run, folder = runs["vit"]
    classifier = of_run(run)
    again = ViTClassifier(
        names,
        classifier.hparams.input_config,
        name=NAME,
        weights=f"{folder}/model.safetensors",
        model_options=SMALL,
    )
    assert torch.equal(again.backbone.head.weight, classifier.backbone.head.weight[order])
    for kind, cls in (("hf_image", HFImageClassifier), ("bert", BertClassifier)):
        run, folder = runs[kind]
        classifier = of_run(run)
        again = cls(names, classifier.hparams.input_config, name=str(folder))
        theirs, ours = (x.backbone.classifier.weight for x in (classifier, again))
        assert torch.equal(ours, theirs[order])


def test_the_folder_of_a_model_of_timm_is_refused_as_one_of_transformers(runs):
    folder = runs["vit"][1]
    accepted = f"model.kind=vit model.name={NAME} model.weights={folder}/model.safetensors"
    with pytest.raises(InputError, match=f"timm's {NAME}; accepted: {accepted}"):
        HFImageClassifier(NAMES, input_config(), name=str(folder))


@pytest.mark.parametrize("kind", ["vit", "hf_image"])
def test_data_take_the_transforms_of_the_folder(kind, runs):
    assert processed_config(str(runs[kind][1]), None) == input_config(**VALUES)
