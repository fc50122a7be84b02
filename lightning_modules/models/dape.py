"""Attention whose position bias adapts to its scores: DAPE V2 (Zheng et al., ACL 2025).

With scores s = q k^T / sqrt(d), [B, H, N, N], and a bias b of the distance of query i and key j::

    s' = s + b + Conv_2(LeakyReLU(Conv_1([s; b])))        (arXiv 2410.04798)

Both convolutions run along the keys, Conv_1 from 2 H channels to ``width`` and Conv_2 back to H.
DAPE V1 has kernel 1. ALiBi and Kerple alone are s + b.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask
from transformers.models.bert.modeling_bert import BertSelfAttention

from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import Count, check_option, from_mapping

OPTION = "model.dape"
NAME = "dape"  # of the attention, for transformers
LEAST = 0.01  # of Kerple's p and a


@dataclass(frozen=True)
class Dape:
    """The option ``dape`` of a text classifier.

    Args:
        bias: of the distance of two tokens. ``none``: scores alone are convolved.
        kernel: keys that each convolution sees, an odd number; None: no convolutions.
        width: channels between the two convolutions.
    """

    bias: Literal["kerple", "alibi", "none"] = "kerple"
    kernel: Count | None = 3
    width: Count = 32

    @staticmethod
    def of(given: Mapping[str, Any] | None) -> Dape:
        """Raises a ValueError of the option that is not accepted."""
        dape = from_mapping(Dape, OPTION, given or {})
        odd = dape.kernel is None or dape.kernel % 2 == 1
        check_option(f"{OPTION}.kernel", dape.kernel, odd, "an odd number, or null")
        if dape.bias == "none" and dape.kernel is None:
            raise InputError(
                f"{OPTION}: with neither a bias nor a convolution attention is as it was; "
                "accepted: bias kerple or alibi, a kernel, or model.attention=sdpa"
            )
        return dape


class Kerple(nn.Module):
    """b = -p log(1 + a |i - j|), p and a learned for each head (Chi et al., NeurIPS 2022)."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.p = nn.Parameter(2 * torch.rand(heads))
        self.a = nn.Parameter(torch.rand(heads))

    def forward(self, distance: Tensor) -> Tensor:
        p, a = (at_least(x, LEAST)[:, None, None] for x in (self.p, self.a))
        return -p * torch.log1p(a * distance)


class Alibi(nn.Module):
    """b = -2^(-8 h / H) |i - j| of head h, 1 to H (Press et al., ICLR 2022)."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        if heads & (heads - 1):
            raise InputError(
                f"{OPTION}.bias alibi: the model has {heads} heads; accepted: 1, 2, 4, 8, 16, ..., "
                "or bias kerple"
            )
        self.heads = heads

    def forward(self, distance: Tensor) -> Tensor:
        h = torch.arange(1, self.heads + 1, dtype=distance.dtype, device=distance.device)
        return -torch.exp2(-8 * h / self.heads)[:, None, None] * distance


BIASES = {"kerple": Kerple, "alibi": Alibi}


def at_least(x: Tensor, least: float) -> Tensor:
    """``x``, raised to ``least``, with the gradient of ``x``: a number below can come back."""
    return x + (x.clamp(min=least) - x).detach()


class AdaptedScores(nn.Module):
    """The scores of one layer with their bias, and what the convolutions make of both.

    Args:
        heads: of the layer.
        options: which bias, and which convolutions.
    """

    def __init__(self, heads: int, options: Dape) -> None:
        super().__init__()
        self.bias = None if options.bias == "none" else BIASES[options.bias](heads)
        self.mlp = None
        if options.kernel is not None:
            kernel, padding = (1, options.kernel), (0, options.kernel // 2)
            channels = heads if self.bias is None else 2 * heads
            self.mlp = nn.Sequential(
                nn.Conv2d(channels, options.width, kernel, padding=padding),
                nn.LeakyReLU(),
                nn.Conv2d(options.width, heads, kernel, padding=padding),
            )

    def forward(self, scores: Tensor, real: Tensor | None = None, causal: bool = False) -> Tensor:
        """Scores [B, H, N, N], before the mask of the softmax.

        Args:
            scores: s, [B, H, N, N].
            real: False at the keys that are padding, [B, 1, 1, N]; None: there is none. Scores,
                bias and hidden channels are 0 there: a padded text has the scores of itself alone.
            causal: keys after the query are 0 in what is convolved, and their bias is: as published
                for language models.
        """

        def shown(x: Tensor) -> Tensor:
            return x if real is None else x.masked_fill(~real, 0)

        s = z = shown(scores)
        biased = s
        if self.bias is not None:
            b = shown(self.bias(distances(scores, causal)).expand_as(scores))
            biased, z = s + b, torch.cat([s, b], dim=1)
        if self.mlp is None:
            return biased
        first, activation, second = self.mlp
        z = z.tril() if causal else z
        return biased + second(shown(activation(first(z))))


def distances(scores: Tensor, causal: bool) -> Tensor:
    """|i - j| of query i and key j, [N, N]; 0 of keys after the query where they are not seen."""
    places = torch.arange(scores.shape[-1], dtype=scores.dtype, device=scores.device)
    distance = places[:, None] - places
    return distance.clamp(min=0) if causal else distance.abs()


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """BERT's attention with adapted scores, as transformers calls it: A V [B, N, H, d], and A."""
    scores = torch.matmul(query, key.mT) * scaling
    real = None if attention_mask is None else attention_mask[:, :, -1:] == 0
    scores = module.dape(scores, real, module.is_causal)
    if attention_mask is not None:
        scores = scores + attention_mask
    attention = F.dropout(scores.softmax(dim=-1), dropout, module.training)
    return torch.matmul(attention, value).transpose(1, 2).contiguous(), attention


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, eager_mask)


def adapt_scores(backbone: nn.Module, options: Dape) -> None:
    """Give each layer of a BERT that was made for this attention its parameters."""
    for module in list(backbone.modules()):
        if isinstance(module, BertSelfAttention):
            module.dape = AdaptedScores(module.num_attention_heads, options)


def is_adapted(backbone: nn.Module) -> bool:
    """Whether a model has layers that transformers alone does not know."""
    return any(isinstance(module, AdaptedScores) for module in backbone.modules())


def leave_out_positions(backbone: nn.Module) -> None:
    """Make the position embeddings of a BERT 0, for good."""
    table = backbone.base_model.embeddings.position_embeddings.weight
    nn.init.zeros_(table)
    table.requires_grad_(False)
