"""explain.py --timm on what is no ViT: stages, windows and convolutions."""

import pytest
import timm
import torch
from timm.models import register_model
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM

import relprop
from benchmarks.families import timm_models
from lightning_modules.models.initial_weights import Weights
from lightning_modules.models.published import timm_classifier
from lightning_modules.models.published.timm_models import size_of_pictures
from lightning_modules.models.vit_backbone import class_layers, load_weights
from tests.helpers.published import photo, scattered
from tests.models.test_published_models import explained, refusal


@register_model
def little_swin(pretrained: bool = False, num_classes: int = 1000, **options) -> SwinTransformer:
    sizes = {"img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 12}
    depths = {"depths": (1, 1), "num_heads": (2, 2)}
    model = SwinTransformer(num_classes=num_classes, **sizes | depths)
    model.pretrained_cfg = {"input_size": (3, 32, 32), "num_classes": num_classes}
    return model


@register_model
def little_sam(pretrained: bool = False, num_classes: int = 0, **options) -> VisionTransformerSAM:
    """Of timm's the head, of no classes as its weights come."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}
    model = VisionTransformerSAM(num_classes=num_classes, **sizes)
    model.pretrained_cfg = {"input_size": (3, 32, 32), "num_classes": 0}
    return model


def weights_of(name: str, folder) -> str:
    """``NAME@FILE`` of a model with weights of four classes."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4)
    torch.save(scattered(model).state_dict(), folder / "weights.pth")
    return f"{name}@{folder / 'weights.pth'}"


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("little_swin", (8, 8)),
        ("test_convnext", (160, 160)),
        ("test_resnet", (160, 160)),
    ],
)
def test_a_model_of_timm_is_explained_as_relprop_does(tmp_path, name, shape):
    photo().save(tmp_path / "a.png")
    name = weights_of(name, tmp_path)
    numbers, _, page = explained(
        *(tmp_path / "out", "--timm", name, "--input", tmp_path / "a.png", "--target", "2"),
        *("--method", "attnlrp"),
    )
    (entry,) = numbers["inputs"]
    module = timm_classifier(name)
    expected = relprop.explain(module.backbone, module.prepare([photo()])["image"], 2, "attnlrp")
    found = torch.tensor(entry["relevance"]["attnlrp"][0])
    assert found.shape == shape
    theirs = expected.relevance[0].view(shape)
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max()))
    assert page["inputs"][0]["parts"][0]["shown"] == "picture"


def test_a_model_of_timm_without_attention_names_what_explains_it(tmp_path, capsys):
    photo().save(tmp_path / "a.png")
    message = refusal(
        *(capsys, "--timm", weights_of("test_convnext", tmp_path), "--input", tmp_path / "a.png"),
        *("--output", tmp_path / "out"),
    )
    assert "no attention map was seen" in message and "--method attnlrp explains" in message


def test_a_model_that_timm_has_not_is_told_with_the_nearest(capsys):
    message = refusal(capsys, "--timm", "swin_tiny_patch4_window7", "--input", __file__)
    assert "--timm swin_tiny_patch4_window7: timm has no such model; accepted: any of" in message
    assert "swin_tiny_patch4_window7_224" in message


def test_layers_of_classes_are_found_in_models_of_each_family():
    seen = 0
    for small in timm_models.MODELS.values():
        if timm.is_model(small.model):
            with torch.device("meta"):
                model = timm.create_model(small.model, num_classes=7, **small.options)
            state, layers = model.state_dict(), class_layers(model)
            assert [len(state[f"{layer}.weight"]) for layer in layers] == [7] * len(layers) != []
            seen += 1
    assert seen > 70


@pytest.mark.parametrize("name", ["levit_128s", "crossvit_tiny_240", "little_sam"])
def test_a_head_that_is_not_one_layer_is_that_of_the_weights(tmp_path, name):
    """Two behind norms, two of two sizes of patches, and one behind a layer that pools."""
    name = weights_of(name, tmp_path)
    module = timm_classifier(name)
    found, weights = module.backbone.state_dict(), torch.load(tmp_path / "weights.pth")
    assert module.hparams.class_names == ["0", "1", "2", "3"] and found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)


def test_classes_in_another_order_leave_the_norm_before_the_head_as_it_is(tmp_path):
    torch.manual_seed(0)
    model = scattered(timm.create_model("levit_128s", num_classes=3))
    weights = Weights(model.state_dict(), {"class_names": ["a", "b", "c"]})
    other = timm.create_model("levit_128s", num_classes=3)
    load_weights(other, "file", weights, ["c", "a", "b"])
    torch.testing.assert_close(other.head.linear.weight, model.head.linear.weight[[2, 0, 1]])
    torch.testing.assert_close(other.head.bn.weight, model.head.bn.weight)


@pytest.mark.parametrize("name", ["cait", "hiera", "vision_transformer_hybrid", "vitamin", "deit"])
def test_the_size_of_pictures_is_that_of_the_position_embeddings(name):
    small = timm_models.MODELS[name]
    with torch.device("meta"):
        own, other = (
            timm.create_model(small.model, **dict(small.options) | {"img_size": (side, side)})
            for side in (64, 128)
        )
    assert size_of_pictures(own, other.state_dict(), 64) == 128
    assert size_of_pictures(own, own.state_dict(), 64) == 64
