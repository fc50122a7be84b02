"""Fused functions written out in simpler operations, so that the attention map is seen."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.errors import UnsupportedModel


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(Q K^T scale + mask) V, written out so that the attention map is seen.

    Dropout is left out: a recording is an evaluation. Shapes: [B, H, N, d]; mask broadcastable to
    [B, H, N, N], boolean (True takes part) or additive.
    """
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(groups, dim=-3) for x in (key, value))
    scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~causal, -math.inf)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        else:
            scores = scores + attn_mask
    return _attention(scores, attn_mask) @ value


def _attention(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over keys; 0, as torch has it, for a query that the mask leaves none."""
    if mask is None:
        return F.softmax(scores, dim=-1)
    kept = mask if mask.dtype == torch.bool else ~mask.isneginf()
    none = ~kept.any(dim=-1, keepdim=True)
    if none.device.type == "cpu" and not bool(none.any()):  # a look that a GPU would wait for
        return F.softmax(scores, dim=-1)
    return F.softmax(scores.masked_fill(none, 0), dim=-1).masked_fill(none, 0)


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, None]:
    """``nn.MultiheadAttention``, written out. Shapes [N, B, D] as torch calls it.

    Returns no attention weights: nothing downstream of a classifier reads them.
    """
    if (
        bias_k is not None
        or bias_v is not None
        or add_zero_attn
        or static_k is not None
        or static_v is not None
    ):
        raise UnsupportedModel(
            "nn.MultiheadAttention with bias_k, bias_v, add_zero_attn or static keys has attention "
            "maps that are not token by token"
        )
    weights: tuple[Tensor | None, ...]
    if in_proj_weight is None or use_separate_proj_weight:
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        weights = in_proj_weight.chunk(3)
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    # Batch first, as rules that sum over a sample need it; where q, k, v are one tensor, one again.
    batch_first = {id(x): x.transpose(0, 1) for x in (query, key, value)}
    heads = [  # [B, N, D] -> [B, H, N, d]
        F.linear(batch_first[id(x)], w, b).unflatten(-1, (num_heads, -1)).transpose(1, 2)  # type: ignore[arg-type]
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    ]
    mask = None
    for part, shape in ((attn_mask, None), (key_padding_mask, (query.shape[1], 1, 1, -1))):
        if part is None:
            continue
        if part.dtype == torch.bool:  # here True leaves out
            part = torch.zeros(part.shape, dtype=query.dtype, device=part.device).masked_fill(
                part, -math.inf
            )
        if shape is not None:
            part = part.reshape(shape)
        elif part.ndim == 3:
            part = part.unflatten(0, (query.shape[1], num_heads))
        mask = part if mask is None else mask + part
    q, k, v = heads
    attended = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return F.linear(attended.permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias), None


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    return input + value * (tensor1 * tensor2)


def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1):
    product = alpha * (batch1 @ batch2)
    return beta * input + product if beta else product  # torch ignores an input that counts 0 times


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """Half of ``input``, gated by the other half."""
    value, gate = input.chunk(2, dim)
    return value * gate.sigmoid()


COMPOSED: dict[Callable, Callable] = {
    torch.addcmul: addcmul,
    Tensor.addcmul: addcmul,
    F.glu: glu,
    torch.baddbmm: baddbmm,
    Tensor.baddbmm: baddbmm,
    F.scaled_dot_product_attention: scaled_dot_product_attention,
    F.multi_head_attention_forward: multi_head_attention_forward,
}
"""The written-out form of each fused function."""
