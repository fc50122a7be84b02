"""One small random model of each timm family, that is of each module of its registry."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import timm
import torch
from timm.models.byobnet import ByoBlockCfg
from timm.models.metaformer import Attention, LayerNorm2dNoBias, LayerNormNoBias, SepConv
from timm.models.mvitv2 import MultiScaleVitCfg
from timm.models.vitamin import VitCfg, VitConvCfg
from torch import nn

from benchmarks.families.entry import Entry, Example
from benchmarks.families.weights import randomise

CLASSES = 5
VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2}  # the sizes of a plain transformer


@dataclass(frozen=True)
class Small:
    """What makes a model of a family small.

    ``model``: a registered name, or a class of the family's module where its entry points have no
    such options. ``side``: of its pictures. ``drop``: blocks that are left out, where there is no
    option for it.
    """

    model: str
    side: int = 64
    options: Mapping[str, object] = field(default_factory=dict)
    drop: tuple[str, ...] = ()


ONES = (1, 1, 1, 1)
WIDTHS = (16, 32, 64, 128)
WINDOWS = {  # two stages of two blocks, the second of them shifted
    "img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)
}  # fmt: skip
BYO_BLOCKS = (
    ByoBlockCfg("bottle", d=1, c=32, s=1, gs=0, br=0.25),
    ByoBlockCfg("self_attn", d=1, c=64, s=2, gs=0, br=0.25),
)
CROSSED = {
    "img_size": 96, "img_scale": (1.0, 1.0), "embed_dim": (16, 32), "num_heads": (1, 2),
    "depth": ((1, 2, 0), (1, 2, 0)),
}  # fmt: skip
METAFORMER = {
    "depths": ONES, "dims": (32, 32, 64, 64),
    "token_mixers": (SepConv, SepConv, Attention, Attention),
    "norm_layers": [LayerNorm2dNoBias] * 2 + [LayerNormNoBias] * 2,
}  # fmt: skip
MVIT = MultiScaleVitCfg(depths=(1, 2), embed_dim=16, stride_q=((1, 1), (2, 2)))
EFFICIENT = {"depths": (1, 1, 1, 2), "embed_dims": (16, 32, 48, 64), "num_vit": 1}
INCEPTION_RESNET = (
    *(f"repeat.{i}" for i in range(1, 10)),
    *(f"repeat_1.{i}" for i in range(1, 20)),
    *(f"repeat_2.{i}" for i in range(1, 9)),
)
INCEPTION = tuple(f"features.{i}" for i in (7, 8, 9, 12, 13, 14, 15, 16, 17, 20, 21))
NEST = {"img_size": 64, "depths": (1, 1, 1), "embed_dims": (16, 32, 64), "num_heads": (1, 2, 4)}
SEQUENCER = {"layers": ONES, "embed_dims": (32, 64, 64, 64), "hidden_sizes": (8, 16, 16, 16)}
VITAMIN = VitCfg(
    embed_dim=(8, 16, 32), depths=(1, 1, 1), stem_width=8, head_type="1d",
    conv_cfg=VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6),
)  # fmt: skip
VOLO = {"img_size": 64, "layers": ONES, "embed_dims": (32, 64, 64, 64), "num_heads": (1, 2, 2, 2)}
XCEPTION = [
    {"in_chs": 64, "out_chs": 64, "stride": 2},
    {"in_chs": 64, "out_chs": 64, "stride": 1},
    {"in_chs": 64, "out_chs": (64, 64, 128), "stride": 1, "no_skip": True},
]

MODELS: dict[str, Small] = {
    "beit": Small("beit_base_patch16_224", 64, VIT | {"img_size": 64}),
    "byoanet": Small("botnet26t_256", 64, {"img_size": 64, "blocks": BYO_BLOCKS}),
    "byobnet": Small("test_byobnet"),
    "cait": Small("cait_xxs24_224", 64, VIT | {"img_size": 64}),
    "coat": Small(
        "coat_lite_tiny", 64, {"img_size": 64, "serial_depths": ONES, "global_pool": "avg"}
    ),
    "convit": Small("convit_tiny", 64, VIT | {"img_size": 64, "local_up_to_layer": 1}),
    "convmixer": Small("ConvMixer", 64, {"dim": 32, "depth": 2}),
    "convnext": Small("test_convnext"),
    "cpubone": Small("cpubone_nano"),
    "crossvit": Small("crossvit_tiny_240", 96, CROSSED),
    "csatv2": Small(
        "csatv2", 64, {"dims": WIDTHS, "depths": ONES, "transformer_depths": (0, 0, 1, 1)}
    ),
    "cspnet": Small("cs3darknet_s"),
    "cspnext": Small("cspnext_tiny"),
    "davit": Small(
        "davit_tiny", 64, {"depths": ONES, "embed_dims": WIDTHS, "num_heads": (1, 2, 4, 8)}
    ),
    "deepseek_vit": Small("deepseek_vit_412m", 84, VIT | {"img_size": 84}),
    "deit": Small("deit_tiny_distilled_patch16_224", 64, VIT | {"img_size": 64}),
    "densenet": Small("densenet121", 64, {"growth_rate": 8, "block_config": (2, 2, 2, 2)}),
    "dla": Small("dla46x_c"),
    "dpn": Small("dpn48b", 64, {"k_sec": ONES}),
    "edgenext": Small("edgenext_xx_small", 64, {"depths": (1, 2, 2, 2)}),
    "efficientformer": Small("efficientformer_l1", 224, EFFICIENT),
    "efficientformer_v2": Small(
        "efficientformerv2_s0", 64, {"img_size": 64, "depths": (1, 1, 2, 2)}
    ),
    "efficientnet": Small("test_efficientnet"),
    "efficientvim": Small("efficientvim_m1"),
    "efficientvit_mit": Small("efficientvit_b0"),
    "efficientvit_msra": Small("efficientvit_m0", 64, {"img_size": 64}),
    "eva": Small("vit_pe_core_tiny_patch16_384", 64, VIT | {"img_size": 64}),
    "fasternet": Small("fasternet_t0", 64, {"embed_dim": 16, "depths": ONES}),
    "fastvit": Small("fastvit_t8", 64, {"layers": ONES}),
    "focalnet": Small("FocalNet", 64, {"embed_dim": 16, "depths": ONES}),
    "gcvit": Small("GlobalContextVit", 64, {"img_size": 64, "embed_dim": 16, "depths": ONES}),
    "gemma4_vit": Small("gemma4_vit_167m", 96, VIT | {"img_size": 96, "head_dim": 16}),
    "ghostnet": Small("ghostnet_050"),
    "hardcorenas": Small("hardcorenas_a"),
    "hgnet": Small("hgnetv2_b0"),
    "hiera": Small("hiera_tiny_224", 64, {"img_size": (64, 64), "embed_dim": 16, "stages": ONES}),
    "hieradet_sam2": Small("sam2_hiera_tiny", 64, {"embed_dim": 16, "stages": ONES}),
    "hrnet": Small("hrnet_w18_small"),
    "iformer": Small("iformer_t", 64, {"depths": (1, 1, 3, 3), "attn_groups": (0, 0, 1, 1)}),
    "inception_next": Small("inception_next_atto", 64, {"depths": ONES, "dims": WIDTHS}),
    "inception_resnet_v2": Small("inception_resnet_v2", 96, drop=INCEPTION_RESNET),
    "inception_v3": Small("inception_v3", 96),
    "inception_v4": Small("inception_v4", 96, drop=INCEPTION),
    "lcnetv2": Small("lcnetv2_small"),
    "levit": Small("levit_128s", 64, {"img_size": 64}),
    "lowformer": Small("lowformer_b0", 64, {"depth_list": (0, 1, 1, 1, 1)}),
    "mambaout": Small("test_mambaout"),
    "maxxvit": Small("test_maxvit", 64, {"img_size": 64}),
    "metaformer": Small("MetaFormer", 64, METAFORMER),
    "mlp_mixer": Small("MlpMixer", 64, {"img_size": 64, "embed_dim": 32, "num_blocks": 2}),
    "mobilenetv3": Small("lcnet_035"),
    "mobilenetv5": Small("mobilenetv5_base", 64, {"channel_multiplier": 0.1}),
    "mobilevit": Small("mobilevit_xxs"),
    "mvitv2": Small("MultiScaleVit", 64, {"img_size": (64, 64), "cfg": MVIT}),
    "naflexvit": Small("naflexvit_base_patch16_gap", 64, VIT | {"img_size": 64}),
    "nasnet": Small("nasnetalarge", 64, {"num_features": 384, "stem_size": 8}),
    "nest": Small("Nest", 64, NEST),
    "nextvit": Small("nextvit_small", 64, {"depths": (1, 1, 5, 1), "stem_chs": (16, 16, 16)}),
    "nfnet": Small("test_nfnet"),
    "pit": Small("pit_ti_224", 64, {"img_size": 64, "depth": (1, 1, 1)}),
    "pnasnet": Small("pnasnet5large"),
    "pvt_v2": Small("pvt_v2_b0", 64, {"depths": ONES}),
    "qwen3_vit": Small("qwen3_vit_88m", 64, VIT | {"img_size": 64}),
    "rdnet": Small("rdnet_tiny", 64, {"growth_rates": (16,) * 7, "num_blocks_list": (1,) * 7}),
    "regnet": Small("regnety_002"),
    "repghost": Small("repghostnet_050"),
    "repvit": Small("repvit_m0_9", 64, {"depth": ONES, "embed_dim": WIDTHS}),
    "res2net": Small("res2net50_14w_8s", 64, {"layers": ONES}),
    "resnest": Small("resnest14d"),
    "resnet": Small("test_resnet"),
    "resnetv2": Small("resnetv2_18", 64, {"layers": ONES, "channels": WIDTHS}),
    "rexnet": Small("RexNet", 64, {"width_mult": 0.5, "depth_mult": 0.5}),
    "selecsls": Small("selecsls42b"),
    "senet": Small("legacy_seresnet18", 64, {"layers": ONES}),
    "sequencer": Small("sequencer2d_s", 112, SEQUENCER),
    "shvit": Small("shvit_s1", 64, {"depth": (1, 1, 1)}),
    "sknet": Small("skresnet18", 64, {"layers": ONES}),
    "starnet": Small("starnet_s050"),
    "swiftformer": Small("swiftformer_xs", 64, {"layers": ONES}),
    "swin_transformer": Small("swin_tiny_patch4_window7_224", 64, WINDOWS),
    "swin_transformer_v2": Small("swinv2_tiny_window8_256", 64, WINDOWS),
    "swin_transformer_v2_cr": Small("swinv2_cr_tiny_224", 64, WINDOWS),
    "tiny_vit": Small("tiny_vit_5m_224", 64, {"depths": ONES}),
    "tnt": Small("tnt_s_patch16_224", 64, {"img_size": 64, "depth": 2}),
    "tresnet": Small("tresnet_m", 64, {"layers": ONES, "width_factor": 0.25}),
    "twins": Small("twins_svt_small", 64, {"img_size": 64, "depths": ONES}),
    "vgg": Small("VGG", 64, {"cfg": (16, "M", 32, "M", 64, "M"), "mlp_ratio": 1 / 64}),
    "visformer": Small("visformer_tiny", 64, {"img_size": 64, "depth": 3}),
    "vision_transformer": Small("test_vit", 64, {"img_size": 64}),
    "vision_transformer_hybrid": Small(
        "vit_tiny_r_s16_p8_224", 64, VIT | {"img_size": 64, "patch_size": 2}
    ),
    "vision_transformer_relpos": Small("test_vit_relpos", 64, {"img_size": 64}),
    "vision_transformer_sam": Small("samvit_base_patch16_224", 64, VIT | {"img_size": 64}),
    "vitamin": Small("vitamin_small_224", 64, VIT | {"img_size": 64, "embed_cfg": VITAMIN}),
    "volo": Small("VOLO", 64, VOLO),
    "vovnet": Small("ese_vovnet19b_slim_dw"),
    "xception": Small("xception", 64, drop=tuple(f"block{i}" for i in range(4, 12))),
    "xception_aligned": Small("XceptionAligned", 64, {"block_cfg": XCEPTION}),
    "xcit": Small("xcit_nano_12_p16_224", 64, VIT | {"img_size": 64}),
}

FURTHER: dict[str, Small] = {  # more than one of a family, where they are built in another way
    "vision_transformer, attentions side by side": Small(
        "vit_small_patch16_18x2_224", 64, VIT | {"img_size": 64}
    ),
    "vision_transformer, attention pooling": Small(
        "vit_base_patch16_siglip_224", 64, VIT | {"img_size": 64}
    ),
    "eva, DINOv3": Small("vit_small_patch16_dinov3", 64, VIT | {"img_size": 64}),
    "vision_transformer, DINOv2 with registers": Small(
        "vit_small_patch14_reg4_dinov2", 56, VIT | {"img_size": 56}
    ),
    "maxxvit, CoAtNet": Small("test_coatnet", 64, {"img_size": 64}),
    "resnet, bottlenecks": Small("resnet50", 64, {"layers": ONES, "channels": WIDTHS}),
}
NAMED = {  # what must be explained, whatever else is not
    "swin_transformer", "swin_transformer_v2", "mvitv2", "pvt_v2", "resnet", "convnext", "maxxvit",
    "cait", "vision_transformer_hybrid", "eva", "vision_transformer, attentions side by side",
    "vision_transformer, attention pooling", "vision_transformer", "deit", "beit",
}  # fmt: skip


def family_of(name: str) -> str:
    """The module of timm, without what tells several of its models apart."""
    return name.partition(",")[0]


def create(name: str) -> nn.Module:
    """The small model of a family, with random weights, in evaluation and float64."""
    small = (MODELS | FURTHER)[name]
    torch.manual_seed(0)
    if timm.is_model(small.model):
        model = timm.create_model(small.model, num_classes=CLASSES, **small.options)
    else:
        module = importlib.import_module(f"timm.models.{family_of(name)}")
        model = getattr(module, small.model)(num_classes=CLASSES, **small.options)
    for block in small.drop:
        model.set_submodule(block, nn.Identity())
    return randomise(model.double().eval(), lambda model: model(pictures(small.side, 8)))


def pictures(side: int, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, side, side, dtype=torch.float64, generator=generator)


def example(name: str) -> Example:
    return Example(create(name), pictures((MODELS | FURTHER)[name].side))


def missing() -> list[str]:
    """Families of the installed timm that have no small model here; others may register more."""
    own = (module for module in timm.list_modules() if hasattr(timm.models, module))
    return [module for module in own if module not in MODELS]


def entries() -> Iterator[Entry]:
    """Those of the installed timm; other versions have other families."""
    for name in MODELS | FURTHER:
        if family_of(name) in timm.list_modules():
            small = (MODELS | FURTHER)[name]
            yield Entry(name, "timm", small.model, partial(example, name), name in NAMED)
