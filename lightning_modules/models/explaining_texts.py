"""How decisions about texts are explained: from rows of word pieces to the relevance of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import relprop
from lightning_modules.modalities.texts.explained import ExplainedTexts
from lightning_modules.models.explaining import ExplainingModule, check_one_source
from lightning_modules.models.lm_heads import lm_head_of


class ExplainingTexts(ExplainingModule):
    """A module whose one source is texts, in rows of word pieces.

    Batches have what :class:`ExplainedTexts` needs. The logits of a text in several rows are the
    mean of theirs, and all rows are explained for one class. The option ``lm_head`` may also be the
    hub id or folder of a masked language model.
    """

    def logits(self, trace: relprop.Trace, batch: Mapping[str, Tensor]) -> Tensor:
        return of_texts(trace.logits, batch)

    def per_row(self, values: Tensor, batch: Mapping[str, Any]) -> Tensor:
        return values[batch["text_of_row"]]

    def part_of(self, batch: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        found = super().part_of(batch, rows)
        return found | {"text_of_row": torch.arange(len(rows)).to(found["text_of_row"])}

    def explain_sources(
        self,
        trace: relprop.Trace,
        batch: Mapping[str, Any],
        targets: Sequence[int | Tensor | None],
        method: str = "transformer_attribution",
        **options,
    ) -> list[dict[str, ExplainedTexts]]:
        logits = self.logits(trace, batch)
        targets = [relprop.resolve_target(target, logits) for target in targets]
        options = {"normalize_rows": True} | options  # the paper's choice for BERT
        if isinstance(options.get("lm_head"), str):
            where = (trace.logits.dtype, trace.logits.device)
            options["lm_head"] = lm_head_of(options["lm_head"], *where)
        of_rows = [self.per_row(target, batch) for target in targets]
        found = relprop.explain_classes(trace, of_rows, method, **options)
        for explanation in found:
            check_one_source(explanation)
        # Some tokenizers begin a text with its first word, which is no class token.
        has_class_token = batch["special"][:, :1]
        maps = [
            torch.where(
                has_class_token,
                with_class_token_entry(x.relevance, trace.valid, method),
                x.relevance,
            )
            for x in found
        ]
        return [
            self.by_source(batch, replace(x, relevance=of_class, target=target, logits=logits))
            for x, of_class, target in zip(found, maps, targets, strict=True)
        ]


def of_texts(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Of each text the mean logits [B, C] of its rows [R, C]."""
    rows, texts = batch["text_of_row"], len(batch["text"])
    if len(rows) == texts:
        return logits
    of_text = F.one_hot(rows, texts).to(logits)  # [R, B]
    return of_text.T @ logits / of_text.sum(dim=0)[:, None]


def with_class_token_entry(relevance: Tensor, valid: Tensor | None, method: str) -> Tensor:
    """Relevance [B, N] with the class token's own score out of the way, as the paper has it.

    The product methods' I puts the token's relevance on itself: it becomes the least of its map.
    For the others it is 0. ``valid`` is False on padding, [B, N]; None: there is none.
    """
    relevance = relevance.clone()
    seen = relevance if valid is None else relevance.masked_fill(~valid, torch.inf)
    relevance[:, 0] = seen.amin(dim=1) if relprop.METHODS[method].product else 0
    return relevance
