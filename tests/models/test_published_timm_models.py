"""explain.py --timm on what is no ViT: stages, windows and convolutions."""

import pytest
import timm
import torch
from timm.models import register_model
from timm.models.swin_transformer import SwinTransformer

import relprop
from lightning_modules.models.published import timm_classifier
from tests.helpers.published import photo, scattered
from tests.models.test_published_models import explained, refusal


@register_model
def little_swin(pretrained: bool = False, num_classes: int = 1000, **options) -> SwinTransformer:
    sizes = {"img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 12}
    depths = {"depths": (1, 1), "num_heads": (2, 2)}
    model = SwinTransformer(num_classes=num_classes, **sizes | depths)
    model.pretrained_cfg = {"input_size": (3, 32, 32), "num_classes": num_classes}
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
