"""Tiny models with random weights, saved as their users save them."""

from pathlib import Path

import torch
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
