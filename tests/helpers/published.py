"""Tiny models with random weights, saved as their users save them."""

from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
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


# ----------------------------------------------------------------------------- language models

WIDTHS = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDTHS |= {"intermediate_size": 32, "max_position_embeddings": 32}
GROUPED = WIDTHS | {"num_key_value_heads": 2, "head_dim": 6}
LANGUAGE_MODELS = {  # class, configuration, sizes, whether its tokenizer is a SentencePiece
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 32},
        False,
    ),
    "llama": ("LlamaForCausalLM", GROUPED, True),
    "qwen3": ("Qwen3ForCausalLM", GROUPED, False),
    "bert": ("BertLMHeadModel", WIDTHS, False),  # which reads in both directions
}


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """As GPT-2's: pieces of bytes, a space before a word its part, and no token to pad with."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    learn(made, 320, ["<|endoftext|>"], pre_tokenizers.ByteLevel.alphabet())
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>")


def sentence_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama's: pieces with ▁ for a space, after a token that begins the text."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    special = ["<unk>", "<s>", "</s>", "<0x0A>", "<0xE2>"]
    learn(made, 80, special, [])
    begin = [("<s>", made.token_to_id("<s>"))]
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=begin)
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def learn(tokenizer: Tokenizer, size: int, special: list[str], alphabet: list[str]) -> None:
    """Pieces of TEXTS."""
    options = {"special_tokens": special, "initial_alphabet": alphabet, "show_progress": False}
    tokenizer.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(vocab_size=size, **options))


def save_language_model(folder: Path, kind: str = "gpt2") -> PreTrainedModel:
    """Into ``folder``: a causal language model and its tokenizer."""
    torch.manual_seed(0)
    name, sizes, sentences = LANGUAGE_MODELS[kind]
    tokenizer = sentence_tokenizer() if sentences else bytes_tokenizer()
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    built = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **ids | sizes)
    model = scattered(getattr(transformers, name)(built))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


# -------------------------------------------------------------------------- pictures and texts

READER = WIDTHS | {"hidden_size": 24, "num_attention_heads": 2, "max_position_embeddings": 16}
PAIRS = {  # class, configuration, what it has beside its two towers
    "clip": ("CLIPModel", {"projection_dim": 16}),
    "siglip": ("SiglipModel", {}),
    "blip": ("BlipForImageTextRetrieval", {"projection_dim": 16, "image_text_hidden_size": 16}),
}


def save_pair_model(folder: Path, kind: str = "clip") -> PreTrainedModel:
    """Into ``folder``: a model of pictures and texts, its tokenizer and its image processor."""
    torch.manual_seed(0)
    name, more = PAIRS[kind]
    made = tokenizer_of(16)
    ids = {"bos_token_id": made.cls_token_id, "eos_token_id": made.sep_token_id}
    reader = READER | ids | {"vocab_size": len(made), "pad_token_id": made.pad_token_id}
    if kind == "siglip":
        reader["projection_size"] = VIT["hidden_size"]
    if kind == "blip":
        reader["encoder_hidden_size"] = VIT["hidden_size"]
    built = AutoConfig.for_model(kind, text_config=reader, vision_config=VIT, **more)
    model = scattered(getattr(transformers, name)(built))
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    transformers.ViTImageProcessor(**SQUASHED).save_pretrained(folder)
    return model


def save_vilt(folder: Path, kind: str = "ViltForQuestionAnswering", **config) -> PreTrainedModel:
    """Into ``folder``: a ViLT, its tokenizer and its image processor."""
    torch.manual_seed(0)
    made = tokenizer_of(16)
    sizes = READER | VIT | {"vocab_size": len(made), "pad_token_id": made.pad_token_id}
    built = transformers.ViltConfig(**sizes | config)
    model = scattered(getattr(transformers, kind)(built))
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    processor = transformers.ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)
    processor.save_pretrained(folder)
    return model
