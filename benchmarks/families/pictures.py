"""Small random models of Hugging Face transformers that look at pictures or listen."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import transformers as hf
from torch import Tensor, nn

from benchmarks.families.entry import Entry, Example
from benchmarks.families.texts import LABELS
from benchmarks.families.weights import randomise

SIDE = 32
SIZES = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "num_labels": LABELS,
}  # fmt: skip
VIT = SIZES | {"image_size": SIDE, "patch_size": 8}
SWIN = {
    "image_size": SIDE, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
    "window_size": 4, "num_labels": LABELS,
}  # fmt: skip
CONVNEXT = {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "num_labels": LABELS}
HIERA = {
    "image_size": [SIDE, SIDE], "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2],
    "num_query_pool": 1, "query_stride": [2, 2], "masked_unit_size": [4, 4],
    "masked_unit_attention": [True, False], "num_labels": LABELS,
}  # fmt: skip
SEGFORMER = {
    "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [16, 32],
    "num_attention_heads": [1, 2], "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 2],
    "decoder_hidden_size": 16, "num_labels": LABELS,
}  # fmt: skip
SPECTRUM = {"num_mel_bins": 24, "max_length": 32, "frequency_stride": 8, "time_stride": 8}
WHISPER = {
    "d_model": 24, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_mel_bins": 8,
    "max_source_positions": 10, "classifier_proj_size": 16, "num_labels": LABELS, "vocab_size": 40,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0,
}  # fmt: skip
WAVES = SIZES | {
    "conv_dim": [16, 16], "conv_stride": [5, 2], "conv_kernel": [10, 3], "classifier_proj_size": 16,
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
DETR = {
    "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_queries": 4,
    "num_labels": LABELS,
}  # fmt: skip
BACKBONE = {
    "embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic",
    "out_features": ["stage2"],
}  # fmt: skip

PICTURES = {  # the family: its class, its configuration, what makes it small
    "ViT": ("ViTForImageClassification", "ViTConfig", VIT),
    "DeiT": ("DeiTForImageClassification", "DeiTConfig", VIT),
    "BEiT": (
        "BeitForImageClassification", "BeitConfig", VIT | {"use_relative_position_bias": True},
    ),
    "DINOv2": ("Dinov2ForImageClassification", "Dinov2Config", VIT),
    "Swin": ("SwinForImageClassification", "SwinConfig", SWIN),
    "Hiera": ("HieraForImageClassification", "HieraConfig", HIERA),
    "SegFormer": ("SegformerForImageClassification", "SegformerConfig", SEGFORMER),
    "ConvNeXt": ("ConvNextForImageClassification", "ConvNextConfig", CONVNEXT),
    "ConvNeXtV2": ("ConvNextV2ForImageClassification", "ConvNextV2Config", CONVNEXT),
    "SigLIP (classification)": (
        "SiglipForImageClassification", "SiglipConfig",
        {"vision_config": VIT, "text_config": SIZES, "num_labels": LABELS},
    ),
}  # fmt: skip
SOUNDS = {
    "AST": (
        "ASTForAudioClassification", "ASTConfig", SIZES | SPECTRUM | {"patch_size": 8},
        ("input_values", (2, 32, 24)),
    ),
    "Whisper": (
        "WhisperForAudioClassification", "WhisperConfig", WHISPER, ("input_features", (2, 8, 20)),
    ),
    "HuBERT": (
        "HubertForSequenceClassification", "HubertConfig", WAVES, ("input_values", (2, 200)),
    ),
    "WavLM": ("WavLMForSequenceClassification", "WavLMConfig", WAVES, ("input_values", (2, 200))),
    "Wav2Vec2": (
        "Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", WAVES, ("input_values", (2, 200)),
    ),
}  # fmt: skip


def noise(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def build(model: nn.Module, **inputs: Tensor) -> nn.Module:
    return randomise(model.double().eval(), lambda model: model(**inputs))


def classifier(cls: str, config: str, sizes: dict, name: str, shape: tuple[int, ...]) -> Example:
    torch.manual_seed(0)
    inputs = {name: noise(*shape)}
    model = getattr(hf, cls)(getattr(hf, config)(**sizes))
    return Example(build(model, **inputs), inputs)


def detr(learned: bool) -> Example:
    """The class of the third query."""
    torch.manual_seed(0)
    backbone = hf.ResNetConfig(**BACKBONE)
    config = hf.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=backbone, **DETR,
    )  # fmt: skip
    inputs = {"pixel_values": noise(2, 3, 64, 64)}
    model = build(hf.DetrForObjectDetection(config), **inputs)
    asked = {"output": lambda out: out.logits[:, 2]}
    if learned:
        asked["learned"] = ("model.query_position_embeddings.weight",)
    return Example(model, inputs, asked)


def entries() -> Iterator[Entry]:
    for family, (cls, config, sizes) in PICTURES.items():
        shape = ("pixel_values", (2, 3, SIDE, SIDE))
        make = partial(classifier, cls, config, sizes, *shape)
        yield Entry(family, "picture", cls, make, must=True)
    for learned in (False, True):
        name = "DETR, a query" + (", its embedding a source" if learned else "")
        yield Entry(name, "picture", "DetrForObjectDetection", partial(detr, learned), not learned)
    for family, (cls, config, sizes, shape) in SOUNDS.items():
        yield Entry(family, "sound", cls, partial(classifier, cls, config, sizes, *shape), True)
