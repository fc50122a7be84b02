"""Tiny models with random weights, saved as their users save them."""

from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from lightning_modules.data.texts.tokenizers import train_tokenizer

TEXTS = ["the cat sat on the mat", "a dog ran home, sad and wet!"]
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def scattered(model: nn.Module) -> nn.Module:
    """The same with matrices so large that words and classes differ."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def tokenizer_of(limit: int | None = None) -> PreTrainedTokenizerFast:
    """One that knows the words of TEXTS."""
    trained = train_tokenizer(TEXTS * 3, 200)
    options = {} if limit is None else {"model_max_length": limit}
    return PreTrainedTokenizerFast(
        tokenizer_object=trained.backend_tokenizer, **trained.special_tokens_map, **options
    )


def save_text_classifier(
    folder: Path, kind: str = "bert", limit: int | None = None, tokenizer: bool = True, **config
) -> PreTrainedModel:
    """Into ``folder``: a model of Hugging Face and, if asked for, its tokenizer.

    None in ``config`` leaves a key out.
    """
    torch.manual_seed(0)
    made = tokenizer_of(limit)
    ids = {
        "vocab_size": len(made),
        "pad_token_id": made.pad_token_id,
        "bos_token_id": made.cls_token_id,
        "eos_token_id": made.sep_token_id,
    }
    options = SIZES | ids | {"num_labels": 3} | config
    given = {name: value for name, value in options.items() if value is not None}
    built = AutoConfig.for_model(kind, **given)
    model = scattered(AutoModelForSequenceClassification.from_config(built))
    model.save_pretrained(folder)
    if tokenizer:
        made.save_pretrained(folder)
    return model


# ------------------------------------------------------------------------------------ pictures

VIT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT |= {"intermediate_size": 32, "image_size": 32, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1]}
SQUASHED = {"size": {"height": 32, "width": 32}}
CROPPED = {"crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SHORTEST = {"size": {"shortest_edge": 32}} | IMAGENET
IMAGE_CLASSIFIERS = {  # sizes, the image processor with its sizes
    "ViT": (VIT, "ViTImageProcessor", SQUASHED),
    "DeiT": (VIT, "DeiTImageProcessor", {"size": {"height": 40, "width": 40}} | CROPPED),
    "Beit": (VIT, "BeitImageProcessor", {"size": {"height": 40, "width": 40}} | CROPPED),
    "Dinov2": (VIT, "BitImageProcessor", {"size": {"shortest_edge": 40}} | CROPPED),
    "Swin": (
        {"image_size": 32, "patch_size": 4, "embed_dim": 12, "depths": [1, 1],
         "num_heads": [2, 2], "window_size": 4},
        "ViTImageProcessor", SQUASHED,
    ),
    "ConvNext": (STAGES, "ConvNextImageProcessor", SHORTEST),
    "ResNet": (
        STAGES | {"embedding_size": 8, "layer_type": "basic"},
        "ConvNextImageProcessor", SHORTEST,
    ),
}  # fmt: skip


def photo(width: int = 64, height: int = 48) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def save_image_classifier(folder: Path, kind: str = "ViT", **config) -> PreTrainedModel:
    """Into ``folder``: a classifier of pictures and its image processor."""
    torch.manual_seed(0)
    sizes, processor, options = IMAGE_CLASSIFIERS[kind]
    built = getattr(transformers, f"{kind}Config")(**{"num_labels": 3} | sizes | config)
    model = scattered(getattr(transformers, f"{kind}ForImageClassification")(built))
    model.save_pretrained(folder)
    getattr(transformers, processor)(**options).save_pretrained(folder)
    return model
