"""The backbone of a text classifier: Hugging Face's model, and the weights that it begins with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import AutoModelForSequenceClassification

from lightning_modules.data.texts.tokenizers import tokenizer_from_config, vocabulary_size
from lightning_modules.models import dape, hf_backbone
from lightning_modules.models.hf_backbone import check_one_is_given, describe_backbone
from lightning_modules.models.hf_checks import check_vocabulary
from lightning_modules.models.initial_weights import read_weights
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import check_option

ATTENTIONS = ("sdpa", "eager", dape.NAME)


def create_backbone(
    name: str | None,
    config: Mapping[str, Any] | None,
    class_names: list[str],
    input_config: Mapping[str, Any],
    attention: str,
    adapted: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Hugging Face's model in float32, with a head for the classes.

    ``adapted``: the options of the attention ``dape``.

    Raises:
        InputError: there is none, its configuration is not one that can be, or the tokenizer does
            not fit it.
    """
    check_one_is_given(name, config)
    check_option("model.attention", attention, attention in ATTENTIONS, " or ".join(ATTENTIONS))
    if attention == dape.NAME:
        check_bert_from_scratch(f"model.attention={attention}", config)
    elif adapted is not None:
        raise InputError(
            f"{dape.OPTION} is of model.attention=dape, and it is {attention}; accepted: null"
        )
    auto, options = AutoModelForSequenceClassification, {"attn_implementation": attention}
    if config is not None:
        accepted = "model_type bert, distilbert, roberta or electra, with sizes that go together"
        sizes = vocabulary(input_config)
        backbone = hf_backbone.from_config(
            auto, config, class_names, sizes, "bert", accepted, **options
        )
        if attention == dape.NAME:
            dape.adapt_scores(backbone, dape.Dape.of(adapted))
        return backbone
    accepted = "the hub id or folder of a BERT-family model, in reach, with a model.attention "
    accepted += "(sdpa or eager) that it has"
    backbone = hf_backbone.from_name(auto, name, class_names, accepted, **options)
    given = describe_backbone(name, None)
    check_vocabulary(given, backbone, tokenizer_from_config(input_config))
    return backbone


def check_bert_from_scratch(option: str, config: Mapping[str, Any] | None) -> None:
    """Raises an InputError where an option is given that no other model takes."""
    if config is None or config.get("model_type", "bert") != "bert":
        given = "a pretrained model" if config is None else f"model_type {config['model_type']}"
        raise InputError(
            f"{option} is of a BERT from scratch, and the model is {given}; accepted: model.config "
            "of model_type bert, without model.name"
        )


def load_weights(
    backbone: nn.Module, path: str, class_names: list[str], input_config: Mapping[str, Any]
) -> None:
    """Load weights of a run on texts, which its tokenizer has to be the same for.

    Raises:
        InputError: its tokenizer is another, so that an embedding would be of another word.
        ValueError: the weights do not fit.
    """
    weights = read_weights(path, "bert")
    ours, theirs = input_config, (weights.hyper_parameters or {}).get("input_config")
    if theirs is not None and theirs["tokenizer"] != ours["tokenizer"]:
        raise InputError(
            f"model.weights {path}: the run has another tokenizer than the data; accepted: "
            f"data.tokenizer={path}, which takes the run's"
        )
    hf_backbone.load_weights(backbone, path, weights, class_names)


def vocabulary(input_config: Mapping[str, Any]) -> dict[str, int]:
    """Vocabulary size and padding id of the tokenizer that the data brings."""
    tokenizer = tokenizer_from_config(input_config)
    return {"vocab_size": vocabulary_size(tokenizer), "pad_token_id": tokenizer.pad_token_id}
