"""Hugging Face's causal language models: what says the next token of a text."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto import modeling_auto
from typing_extensions import Self

from lightning_modules.data.texts.tokenizers import input_config_of
from lightning_modules.modalities import Texts
from lightning_modules.models.published.kinds import KINDS, Published
from lightning_modules.models.published.tokens import longest_text, own_tokenizer
from lightning_modules.utils.errors import as_input_error

NOT_CAUSAL = 1e-3  # of the largest logit: more than rounding changes it
SPACE = "▁"  # as SentencePiece writes it


class Beginnings(Texts):
    """Texts that go on: of one that is too long the end is read."""

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        tokenizer = super().tokenizer
        tokenizer.truncation_side = "left"
        return tokenizer


@KINDS.register("a causal language model")
class PublishedLanguageModel(Published):
    """A causal language model of Hugging Face's; its classes are the tokens that may come next."""

    auto = AutoModelForCausalLM
    families = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    accepted = "the hub id or folder of a causal language model with its tokenizer"
    asked = {"position": -1}

    @classmethod
    def read(cls, given: str, source: str, model: PreTrainedModel) -> Self:
        tokenizer = own_tokenizer(given, source, model, cls.accepted, pads=False)
        longest = longest_text(given, model, tokenizer)
        with as_input_error(f"{given}: it does not say the next token", cls.accepted):
            names = names_of_tokens(tokenizer, classes_of(model))
        return cls(names, input_config_of(tokenizer, longest, None), model, "multiclass")

    @cached_property
    def sources(self) -> dict[str, Texts]:
        return {"text": Beginnings("text", self.hparams.input_config)}

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Logits [B, V] of the next token."""
        inputs = self.inputs(batch)
        last = inputs["attention_mask"].sum(dim=1) - 1  # padding is on the right
        logits = self.of_backbone(inputs)
        return logits[torch.arange(len(logits), device=logits.device), last]

    def largest_batch(self) -> dict[str, Any]:
        return self.prepare([" ".join("a" * self.hparams.input_config["max_length"])])


def classes_of(model: PreTrainedModel) -> int:
    """The number of tokens that a model may say.

    Raises:
        ValueError: what it says of a token depends on the next.
    """
    ids = torch.tensor([[1, 2]], device=model.device)
    with torch.no_grad():
        alone, followed = (model(input_ids=ids[:, :n]).logits[:, 0] for n in (1, 2))
    if (alone - followed).abs().max() > NOT_CAUSAL * alone.abs().max():
        raise ValueError("it reads texts in both directions")
    return alone.shape[-1]


def names_of_tokens(tokenizer: PreTrainedTokenizerFast, count: int) -> list[str]:
    """Each token as it stands in a text, with the space before a word.

    What cannot be printed is escaped, as ``\\n``. A part of a character is called as the tokenizer
    calls it, and an id that it does not know ``token 17``.
    """
    known = min(count, 1 + max(tokenizer.get_vocab().values()))
    pieces = tokenizer.convert_ids_to_tokens(list(range(known)))
    decoded = tokenizer.batch_decode([[i] for i in range(known)])
    names = []
    for i, (piece, text) in enumerate(zip(pieces, decoded, strict=True)):
        if piece is None:
            names.append(f"token {i}")
            continue
        name = piece.replace(SPACE, " ") if SPACE in piece else text
        name = piece if not name or "\N{REPLACEMENT CHARACTER}" in name else name
        names.append("".join(c if c.isprintable() else repr(c)[1:-1] for c in name))
    return names + [f"token {i}" for i in range(known, count)]
