"""timm's models, unmodified: explained, or refused in words."""

import pytest
import timm
import torch
from torch import Tensor, nn

import relprop
from relprop import UnsupportedModel
from tests.helpers.methods import OF_ALL_INPUTS

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
    for method in OF_ALL_INPUTS:
        explanation = relprop.explain_trace(trace, torch.tensor([0, classes - 1]), method)
        shape = tuple(images.shape[2:]) if relprop.METHODS[method].pixels else grid
        assert explanation.grid == shape
        assert explanation.relevance.shape == (2, shape[0] * shape[1])
        assert explanation.relevance.isfinite().all()
        if method == "gradcam":  # may be all clamped
            assert explanation.relevance.ge(0).all() and explanation.relevance.le(1).all()
        else:
            assert (explanation.relevance.std(dim=1) > 0).all(), method


TINY = {"embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 5}
OTHERS = {  # further families, tiny, on 32 x 32: the model, options, prefix tokens
    "FlexiViT": ("flexivit_small", {}, 1),
    "registers, no class token": (
        "vit_tiny_patch16_224", {"reg_tokens": 4, "class_token": False, "global_pool": "avg"}, 4
    ),
    "patches alone": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, 0),
    "any size": ("vit_tiny_patch16_224", {"dynamic_img_size": True}, 1),
    "no position of the class token": ("vit_tiny_patch16_224", {"no_embed_class": True}, 1),
    "norms of queries and keys": ("vit_tiny_patch16_224", {"qk_norm": True}, 1),
    "relative positions": ("vit_relpos_small_patch16_224", {}, 0),
    "BEiT": ("beit_base_patch16_224", {}, 1),
    "EVA-02": ("eva02_tiny_patch14_224", {}, 1),
    "rotary positions": ("vit_base_patch16_rope_224", {}, 1),
    "DINOv3": ("vit_small_patch16_dinov3", {}, 5),
    "SigLIP, averaged": ("vit_base_patch16_siglip_gap_224", {}, 0),
    "NaFlexViT": ("naflexvit_base_patch16_gap", {}, 4),
    "NaFlexViT that keeps the aspect": ("naflexvit_base_patch16_par_gap", {}, 4),
}  # fmt: skip


def tiny(name: str, **options) -> nn.Module:
    """Each of its weights counts."""
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8} | TINY | options
    model = timm.create_model(name, pretrained=False, **options)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.double().eval()


@pytest.mark.parametrize("name", OTHERS)
def test_further_families(name):
    model, images = tiny(OTHERS[name][0], **OTHERS[name][1]), torch.rand(2, 3, 32, 32).double()
    trace = relprop.record(model, images)
    assert (trace.grid, trace.prefix, trace.depth) == ((4, 4), OTHERS[name][2], 3)
    for method in OF_ALL_INPUTS:
        explanation = relprop.explain_trace(trace, torch.tensor([0, 4]), method)
        assert explanation.grid == ((32, 32) if relprop.METHODS[method].pixels else (4, 4))
        assert explanation.relevance.isfinite().all() and explanation.sides is None
        assert explanation.heatmap(32).shape == (2, 32, 32)
        if method in ("transformer_attribution", "generic_attention", "rollout", "lrp"):
            assert (explanation.relevance.std(dim=1) > 0).all()  # others may be all clamped


@pytest.mark.parametrize("pool", ["map", "max", "avgmax", "prr"])
def test_however_tokens_are_pooled_there_are_maps(pool):
    """By attention of a learned query, by the largest, by attention without a residual."""
    options = {"pool_include_prefix": False} if pool == "prr" else {"class_token": False}
    model = tiny("vit_tiny_patch16_224", global_pool=pool, **options)
    trace = relprop.record(model, torch.rand(2, 3, 32, 32).double())
    for method in ("transformer_attribution", "generic_attention", "rollout", "attnlrp", "lrp"):
        assert relprop.explain_trace(trace, 1, method).relevance.std() > 0


# What multiplies attention maps has none, or cannot follow tokens past them; relevance can.
WITHOUT_PRODUCTS = {
    "resnet18": "no attention map was seen",
    "cait_xxs24_224": "is not that of an attention map and its values",
    "mixer_s32_224": "no attention map was seen",
}


@pytest.mark.parametrize("name", WITHOUT_PRODUCTS)
def test_refused_by_what_multiplies_maps(name):
    options = {"depth": 1} if name.startswith("cait") else {}
    model = timm.create_model(name, pretrained=False, **options).eval()
    torch.nn.init.normal_(model.get_classifier().weight)
    trace = relprop.record(model, torch.randn(1, 3, 224, 224))
    with pytest.raises(UnsupportedModel, match=WITHOUT_PRODUCTS[name]):
        relprop.explain_trace(trace, 1, "transformer_attribution")
    assert relprop.explain_trace(trace, 1, "attnlrp").relevance.std() > 0
