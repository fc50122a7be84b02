"""The backbone of a text classifier: Hugging Face's model, and the weights that it begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from lightning_modules.data.texts.tokenizers import tokenizer_from_config, vocabulary_size
from lightning_modules.models.class_names import are_names, are_same
from lightning_modules.models.hf_checks import check_keys, check_vocabulary
from lightning_modules.models.initial_weights import Weights, load_into, read_weights, with_head_for
from lightning_modules.utils.errors import InputError, as_input_error
from lightning_modules.utils.hub import locate
from lightning_modules.utils.options import check_option


def describe_backbone(name: str | None, config: Mapping[str, Any] | None) -> str:
    """What a backbone is made of, in the words of a config."""
    return f"model.name {name}" if name else f"model.config {dict(config)}"


def create_backbone(
    name: str | None,
    config: Mapping[str, Any] | None,
    class_names: list[str],
    input_config: Mapping[str, Any],
    attention: str,
) -> nn.Module:
    """Hugging Face's model in float32, with a head for the classes.

    Raises:
        InputError: there is none, or its configuration is not one that can be.
    """
    if (name is None) == (config is None):
        raise ValueError(
            "model.name and model.config: give one of them, a pretrained model or sizes"
        )
    check_option("model.attention", attention, attention in ("sdpa", "eager"), "sdpa or eager")
    labels = dict(enumerate(class_names))
    head = {"id2label": labels, "label2id": {v: k for k, v in labels.items()}}
    if name is not None:
        return pretrained(name, class_names, input_config, attention, head)
    sizes = vocabulary(input_config) | config | head
    kind = sizes.pop("model_type", "bert")
    accepted = "model_type bert, distilbert, roberta or electra, with sizes that go together"
    with as_input_error(describe_backbone(name, config), accepted):
        default = AutoConfig.for_model(kind)
    check_keys(config, default)
    with as_input_error(describe_backbone(name, config), accepted):
        built = AutoConfig.for_model(kind, **sizes)
        return AutoModelForSequenceClassification.from_config(built, attn_implementation=attention)


def pretrained(
    name: str,
    class_names: Sequence[str],
    input_config: Mapping[str, Any],
    attention: str,
    labels: Mapping[str, Any],
) -> nn.Module:
    """A pretrained model. A head that was trained comes along where its classes have these names.

    Raises:
        InputError: there is none, or the tokenizer does not fit it.
    """
    try:
        folder = locate(name)
    except ValueError as error:
        raise InputError(f"model.name: {error}") from error
    accepted = "the hub id or folder of a BERT-family model, in reach, with a model.attention "
    accepted += "(sdpa or eager) that it has"
    given = describe_backbone(name, None)
    with as_input_error(given, accepted):
        theirs = AutoConfig.from_pretrained(folder).id2label
        backbone, found = AutoModelForSequenceClassification.from_pretrained(
            folder,
            attn_implementation=attention,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=torch.float32,  # whatever it was saved in: trainer.precision decides
            **labels,
        )
    check_vocabulary(given, backbone, tokenizer_from_config(input_config))
    output = output_of(backbone)
    made_anew = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
    if not any(key.startswith(output) for key in made_anew):
        keep_head_of(backbone, output, [theirs[i] for i in sorted(theirs)], class_names, given)
    return backbone


def keep_head_of(
    backbone: nn.Module, output: str, theirs: list[str], class_names: Sequence[str], given: str
) -> None:
    """Give a trained last layer's rows the order of ``class_names``, or make it anew for others.

    Args:
        backbone: a pretrained model.
        output: prefix of the names of its last layer's parameters.
        theirs: names of its classes; numbers, where it does not name them.
        class_names: the classes of the data.
        given: the model, in the words of a config.
    """
    if are_same(class_names, theirs):
        return
    state = {k: v.clone() for k, v in backbone.state_dict().items() if k.startswith(output)}
    weights = Weights(state, {"class_names": theirs} if are_names(theirs) else None)
    kept = with_head_for(weights, state, (output,), class_names, given)
    for name, parameter in backbone.named_parameters():
        if name.startswith(output) and name not in kept:
            nn.init.normal_(parameter, std=0.02) if parameter.ndim > 1 else nn.init.zeros_(
                parameter
            )
    backbone.load_state_dict(kept, strict=False)


def output_of(backbone: nn.Module) -> str:
    """Prefix of the names of the last layer's parameters, which have a row for each class."""
    names = [name for name in backbone.state_dict() if not name.startswith(trunk_of(backbone))]
    return names[-1].rpartition(".")[0] + "."


def trunk_of(backbone: nn.Module) -> str:
    """Prefix of the names of all parameters but the head's."""
    return f"{backbone.base_model_prefix}."


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
    own = backbone.state_dict()
    head = tuple(name for name in own if not name.startswith(trunk_of(backbone)))
    state = with_head_for(weights, own, (output_of(backbone),), class_names)
    load_into(backbone, path, state, head)


def vocabulary(input_config: Mapping[str, Any]) -> dict[str, int]:
    """Vocabulary size and padding id of the tokenizer that the data brings."""
    tokenizer = tokenizer_from_config(input_config)
    return {"vocab_size": vocabulary_size(tokenizer), "pad_token_id": tokenizer.pad_token_id}
