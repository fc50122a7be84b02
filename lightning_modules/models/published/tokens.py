"""The tokenizer that lies beside a model of Hugging Face's, and how much of a text it reads."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from lightning_modules.data.texts.tokenizers import read_tokenizer
from lightning_modules.models.hf_checks import check_vocabulary, positions_of
from lightning_modules.utils.errors import InputError

MOST_TOKENS = 512  # of a text: attention maps grow with their square


def own_tokenizer(
    given: str, source: str, model: PreTrainedModel, accepted: str, pads: bool = True
) -> PreTrainedTokenizerFast:
    """The tokenizer of a model; an InputError where there is none that fits it.

    ``pads``: as of :func:`read_tokenizer`.
    """
    try:
        tokenizer = read_tokenizer(source, pads)
    except InputError as error:
        raise InputError(f"{given}: {error}; accepted: {accepted}") from error
    check_vocabulary(given, model, tokenizer)
    return tokenizer


def longest_text(given: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> int:
    """How many tokens of a text are read."""
    limit, positions = tokenizer.model_max_length, positions_of(model)
    least = tokenizer.num_special_tokens_to_add() + 1
    if not isinstance(limit, (int, float)) or not min(limit, positions) >= least:
        raise InputError(
            f"{given}: its tokenizer makes texts of {limit} tokens (model_max_length), and the "
            f"model takes {positions}; accepted: {least} or more"
        )
    return int(min(limit, positions, MOST_TOKENS))
