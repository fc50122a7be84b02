"""What transformers takes without a word, and makes wrong numbers: known before a model is used."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from lightning_modules.data.texts.tokenizers import vocabulary_size
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.terminal import tell

SET_HERE = {  # keys of a configuration that a config of ours cannot set, and why
    "id2label": "the labels are the classes of the data",
    "label2id": "the labels are the classes of the data",
    "problem_type": "it follows from task",
    "attn_implementation": "it is model.attention",
    "return_dict": "the logits are taken by their name",
}
PADDING = 0.01  # share of the embeddings, at most, that models have beyond their vocabulary


def check_keys(
    config: Mapping[str, Any], default: PreTrainedConfig, name: str = "model.config"
) -> None:
    """Whether a configuration that somebody wrote has only keys that its class knows.

    transformers keeps any other as it is, and nothing reads it. A configuration that transformers
    has saved names its version, and may hold what other versions knew. ``default``: one of the
    class, of which nothing was set.

    Raises:
        InputError: names the first key that has no effect, and the nearest that have.
    """
    if "transformers_version" in config:
        return
    known = {"model_type", "num_labels", *default.to_dict(), *default.attribute_map}
    for key, value in config.items():
        if key in SET_HERE:
            raise InputError(f"{name}.{key} cannot be set: {SET_HERE[key]}; accepted: without it")
        if key not in known:
            accepted = sorted(k for k in known if k not in SET_HERE and k[0] != "_")
            nearest = difflib.get_close_matches(str(key), accepted) or accepted
            raise InputError(
                f"{name}.{key} is no key of model_type {default.model_type!r}; accepted: "
                f"{', '.join(nearest)}"
            )
        within = getattr(default, key)
        if isinstance(value, Mapping) and isinstance(within, PreTrainedConfig):
            check_keys(value, within, f"{name}.{key}")


def check_vocabulary(given: str, model: nn.Module, tokenizer: PreTrainedTokenizerFast) -> None:
    """Whether a pretrained model has an embedding for each token.

    Where it has many more of them, it may have been trained with another: that is told.

    Raises:
        InputError: it has fewer.
    """
    tokens, rows = vocabulary_size(tokenizer), len(model.get_input_embeddings().weight)
    if tokens > rows:
        raise InputError(
            f"{given}: the tokenizer has {tokens} tokens, and the model embeds {rows}; accepted: "
            "the tokenizer that the model was trained with"
        )
    if rows - tokens > PADDING * rows:
        tell(
            f"{given}: the tokenizer has {tokens} tokens, and the model embeds {rows}: "
            "the model misreads the texts unless it was trained with this tokenizer"
        )


def positions_of(model: PreTrainedModel) -> float:
    """How many tokens a model has positions for; inf where its configuration names no number.

    RoBERTa and its like count positions from padding_idx + 1 on, and mark their table of positions
    with it: 514 positions hold 512 tokens.
    """
    most = getattr(model.config, "max_position_embeddings", None) or 0
    counted_from = [
        module.padding_idx + 1
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and "position" in name.rpartition(".")[2]
        if module.padding_idx is not None
    ]
    return most - max(counted_from, default=0) if most > 0 else math.inf
