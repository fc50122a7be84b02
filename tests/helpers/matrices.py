"""Products of attention maps as full matrices between all tokens of a model, in plain torch.

A model of several sets of tokens (encoder and decoder, two towers) has one matrix between them all,
the sets one after the other. Nothing here imports ``relprop``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Step:
    """A block: which tokens attend, and what they take of which others.

    Attributes:
        C: of the map, [B, n, m].
        rows, columns: first of the n tokens and of the m tokens among all.
        depth: attentions that its queries had taken up before.
        residual: whether the rows keep what they had.
    """

    C: Tensor
    rows: int = 0
    columns: int = 0
    depth: int = 0
    residual: bool = True


def product(
    steps: list[Step], tokens: int, *, normalize_rows: bool = False, start_layer: int = 0
) -> Tensor:
    """(I + C^L) ... (I + C^start), [B, tokens, tokens]."""
    found = torch.eye(tokens, dtype=torch.float64)
    for step in steps:
        n, m = step.C.shape[1:]
        C = step.C.new_zeros(len(step.C), tokens, tokens)
        if step.depth >= start_layer:
            C[:, step.rows : step.rows + n, step.columns : step.columns + m] = step.C
        identity = torch.eye(tokens, dtype=C.dtype)
        if not step.residual:
            identity[step.rows : step.rows + n] = 0
        elif normalize_rows:
            total = 1 + C.sum(-1, keepdim=True)
            identity, C = identity / total, C / total
        found = (identity + C) @ found
    return found


def of_maps(method: str, A: Tensor, G: Tensor, R: Tensor) -> Tensor:
    """C of a map [B, H, n, m] by the method: E_h (G * R)^+, E_h (G * A)^+ or E_h A."""
    maps = {"transformer_attribution": G * R, "generic_attention": G * A, "rollout": A}[method]
    return maps.clamp(min=0).mean(1).detach()


def windows(C: Tensor, side: int, window: int, shift: int) -> Tensor:
    """[B * windows, n, n] as a matrix between all tokens, [B, side^2, side^2]."""
    index = torch.arange(side**2).view(side, side).roll((-shift, -shift), (0, 1))
    index = index.unflatten(0, (-1, window)).unflatten(2, (-1, window))
    index = index.permute(0, 2, 1, 3).reshape(-1, window**2)  # of each window, its tokens
    C = C.unflatten(0, (-1, len(index)))
    found = C.new_zeros(len(C), side**2, side**2)
    for i, tokens in enumerate(index):
        found[:, tokens[:, None], tokens[None]] = C[:, i]
    return found


def merging(side: int) -> Tensor:
    """Weights of [side / 2, side / 2] tokens as those of [side, side]: a quarter each."""
    found = torch.zeros((side // 2) ** 2, side**2, dtype=torch.float64)
    for row in range(side):
        for column in range(side):
            found[(row // 2) * (side // 2) + column // 2, row * side + column] = 1 / 4
    return found
