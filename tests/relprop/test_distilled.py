"""A distilled DeiT, which has two heads, wherever the head is meant."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from lightning_modules.models.published import timm_classifier
from lightning_modules.models.vit import heads_of
from tests.models.test_classifier import classifier

NAME = "deit_tiny_distilled_patch16_224"
HEADS = {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    model = timm.create_model(NAME, num_classes=4)
    path = tmp_path_factory.mktemp("distilled") / "weights.safetensors"
    save_file(model.state_dict(), path)
    return path


def test_its_heads():
    assert list(heads_of(timm.create_model(NAME, depth=1))) == ["head", "head_dist"]
    assert list(heads_of(timm.create_model("deit_tiny_patch16_224", depth=1))) == ["head"]


def test_a_frozen_backbone_leaves_both_to_be_trained():
    model = classifier(name=NAME, freeze_backbone=True)
    assert {n for n, p in model.backbone.named_parameters() if p.requires_grad} == HEADS


def test_both_are_left_out_of_weights_for_other_classes(weights):
    model = classifier(
        name=NAME, weights=str(weights), model_options={}, class_names=list("abcdefg")
    )
    expected = timm.models.load_state_dict(weights)["blocks.0.mlp.fc1.weight"]
    assert torch.equal(model.backbone.blocks[0].mlp.fc1.weight, expected)


def test_a_file_of_weights_tells_its_classes(weights):
    assert len(timm_classifier(f"{NAME}@{weights}").hparams.class_names) == 4


def test_a_random_head_is_both():
    """Or the sanity check would compare the map with itself."""
    assert classifier(name=NAME).head_parameters() == HEADS
    assert classifier().head_parameters() == {"head.weight", "head.bias"}
