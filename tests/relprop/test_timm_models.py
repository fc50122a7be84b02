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
    for method in relprop.METHODS:
        explanation = relprop.explain_trace(trace, torch.tensor([0, 4]), method)
        assert explanation.grid == ((32, 32) if method == "lrp" else (4, 4))
        assert explanation.relevance.isfinite().all() and explanation.sides is None
        assert explanation.heatmap(32).shape == (2, 32, 32)
        if method in ("transformer_attribution", "generic_attention", "rollout", "lrp"):
            assert (explanation.relevance.std(dim=1) > 0).all()  # others may be all clamped


POOLED = {
    "map": "no relevance rule for .*matmul",
    "max": "no relevance rule for .*amax",
    "avgmax": "no relevance rule for .*amax",
}


@pytest.mark.parametrize("pool", POOLED)
def test_pooling_that_is_refused(pool):
    model = tiny("vit_tiny_patch16_224", global_pool=pool, class_token=False)
    with pytest.raises(UnsupportedModel, match=POOLED[pool]):
        relprop.explain(model, torch.rand(2, 3, 32, 32).double())


def test_attention_that_pools_the_tokens_has_no_residual():
    """Its rows are none of the last block's: maps cannot be read, relevance of pixels can."""
    model = tiny("vit_tiny_patch16_224", global_pool="prr", pool_include_prefix=False)
    trace = relprop.record(model, torch.rand(2, 3, 32, 32).double())
    for method in relprop.METHODS:
        if method == "lrp":
            assert relprop.explain_trace(trace, 1, method).relevance.std() > 0
        else:
            with pytest.raises(UnsupportedModel, match="the tokens after the last block"):
                relprop.explain_trace(trace, 1, method)


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
