"""Products of attention maps as they stand, full matrices, for a model written out by hand."""

import torch
from torch import Tensor

import relprop

METHODS = ("transformer_attribution", "generic_attention", "rollout")


def blocks_of(trace: relprop.Trace, target: Tensor, method: str) -> list[Tensor]:
    """C of each attention map, [B, n, m], from A, G and R of the recording."""
    A, G = trace.attention, trace.gradient(target)
    if method == "rollout":
        return [a.mean(1) for a in A]
    R = trace.relevance(target) if method == "transformer_attribution" else A
    return [(g * r).relu().mean(1) for g, r in zip(G, R, strict=True)]


def step(C: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """I and C of a block, as they are multiplied: rows sum to 1 in rollout."""
    identity = torch.eye(C.shape[1], dtype=C.dtype).expand(len(C), -1, -1)
    if method != "rollout":
        return identity, C
    total = 1 + C.sum(-1, keepdim=True)
    return identity / total, C / total


def chain(blocks: list[Tensor], method: str) -> Tensor:
    """(I + C^L) ... (I + C^1), [B, N, N]."""
    product = torch.eye(blocks[0].shape[-1], dtype=blocks[0].dtype)
    for C in blocks:
        product = sum(step(C, method)) @ product
    return product
