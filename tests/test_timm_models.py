"""timm's models, unmodified: explained, or refused in words."""

import pytest
import timm
import torch
from torch import Tensor, nn

import relprop
from relprop import UnsupportedModel

MODELS = {  # the model: what makes it small, its grid and its prefix tokens
    "vit_tiny_patch16_224": ({"img_size": 64}, (4, 4), 1),
    "deit_tiny_patch16_224": ({"img_size": (64, 96)}, (4, 6), 1),
    "deit_tiny_distilled_patch16_224": ({"img_size": 64}, (4, 4), 2),
    "deit3_small_patch16_224": ({"img_size": 64}, (4, 4), 1),
    "vit_small_patch16_224": ({"img_size": 64, "global_pool": "avg"}, (4, 4), 1),
    "vit_small_patch14_reg4_dinov2": ({"img_size": 56, "num_classes": 10}, (4, 4), 5),
    "vit_base_patch16_clip_224": ({"img_size": 64, "depth": 4}, (4, 4), 1),
}


def create(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    options, grid, _ = MODELS[name]
    model = timm.create_model(name, pretrained=False, **options)
    height, width = (n * model.patch_embed.patch_size[0] for n in grid)
    return model, torch.randn(2, 3, height, width)


@pytest.mark.parametrize("name", MODELS)
def test_timm_models_unmodified(name):
    model, images = create(name)
    _, grid, prefix = MODELS[name]
    trace = relprop.record(model, images)
    assert (trace.grid, trace.prefix) == (grid, prefix)
    with torch.no_grad():
        torch.testing.assert_close(trace.logits, model.eval()(images), rtol=1e-4, atol=1e-5)
    classes = trace.logits.shape[1]
    assert len(trace.attention) == len(model.blocks)
    for method in relprop.METHODS:
        explanation = relprop.explain_trace(trace, torch.tensor([0, classes - 1]), method)
        shape = tuple(images.shape[2:]) if method == "lrp" else grid
        assert explanation.grid == shape
        assert explanation.relevance.shape == (2, shape[0] * shape[1])
        assert explanation.relevance.isfinite().all()
        if method == "gradcam":  # may be all clamped
            assert explanation.relevance.ge(0).all() and explanation.relevance.le(1).all()
        else:
            assert (explanation.relevance.std(dim=1) > 0).all(), method


REFUSED = {
    "swin_tiny_patch4_window7_224": "attention within windows",
    "resnet18": "no relevance rule for .*max_pool2d",
    "cait_xxs24_224": "lead from some tokens to others",
    "mixer_s32_224": "no attention map was seen",
    "vit_base_patch16_siglip_224": "no relevance rule for .*matmul",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    size = {} if name in ("resnet18", "cait_xxs24_224") else {"img_size": 224}
    depth = {"depth": 1} if "vit" in name or "cait" in name else {}
    model = timm.create_model(name, pretrained=False, **size, **depth)
    with pytest.raises(UnsupportedModel, match=REFUSED[name]):
        relprop.explain(model, torch.randn(1, 3, 224, 224))
