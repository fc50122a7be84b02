"""Heads that tell classes apart by a few pictures of each, its support.

Tokens of a picture are [N, D]. The head encodes the support once; then each query is compared with
what has been encoded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Encoded = tuple[Tensor, ...]  # of the supports of all classes, [E, C, ...] each


class CrossHead(nn.Module):
    """CrossTransformers: a query is compared with what it finds of itself in each class.

    Doersch, Gupta, Zisserman, "CrossTransformers: spatially-aware few-shot transfer" (NeurIPS 2020,
    arXiv 2007.11498), as in google-research/meta-dataset, learners/metric_learners.py. With tokens
    x_p of the query and s_jm of picture j of the support of class c:

    - q_p = W_k x_p, w_p = W_v x_p; k_jm = W_k s_jm, v_jm = W_v s_jm: one map makes queries and keys
    - a_{jm|p} = exp(k_jm q_p / sqrt(d)) / sum over all j and m of the class
    - t_p^c = sum_jm a_{jm|p} v_jm, the prototype of class c as the query is aligned with it
    - logit_c = -1/N sum_p ||w_p - t_p^c||^2

    All a of an episode are [C, Q N, K N]; a fused kernel keeps none of it.

    Args:
        width: D.
        key_width: d.
        value_width: of w and v.
    """

    def __init__(self, width: int, key_width: int = 128, value_width: int = 128) -> None:
        super().__init__()
        self.key = nn.Linear(width, key_width, bias=False)
        self.value = nn.Linear(width, value_width, bias=False)
        # Of tokens of variance 1: scores of about 1, since attention that is even from the start
        # learns late; and |w_p|^2 of about 4 whatever the widths, with which a distance grows.
        nn.init.normal_(self.key.weight, std=width**-0.5)
        nn.init.normal_(self.value.weight, std=2 * (width * value_width) ** -0.5)

    def encode(self, support: Tensor, shots: Tensor | None = None) -> Encoded:
        """Keys and values [E, C, K N, d], and which there are, bool [E, C, 1, K N], or no third.

        Args:
            support: tokens [E, C, K, N, D].
            shots: how many of the K pictures of each class there are, [E, C]; None: all.
        """
        k, v = (layer(support).flatten(-3, -2) for layer in (self.key, self.value))
        return (k, v) if shots is None else (k, v, tokens_there(support, shots)[..., None, :])

    def align(self, x: Tensor, encoded: Encoded) -> Tensor:
        """t^c [E, C, n, d] of tokens x [E, n, D], of one query or several."""
        k, v, *there = encoded
        q = self.key(x).unsqueeze(1).expand(-1, k.shape[1], -1, -1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=there[0] if there else None)

    def attention(self, x: Tensor, encoded: Encoded) -> Tensor:
        """a [E, C, n, K N] of tokens x [E, n, D]."""
        k, _, *there = encoded
        scores = self.key(x).unsqueeze(1) @ k.mT / k.shape[-1] ** 0.5
        return (scores.masked_fill(~there[0], -torch.inf) if there else scores).softmax(dim=-1)

    def apart(self, x: Tensor, t: Tensor) -> Tensor:
        """||w_p - t_p^c||^2 [E, C, n] of tokens x [E, n, D]."""
        return (self.value(x).unsqueeze(1) - t).square().sum(dim=-1)

    def forward(self, x: Tensor, encoded: Encoded) -> Tensor:
        """Logits [E, Q, C] of the queries x [E, Q, N, D] of E episodes."""
        tokens = x.flatten(1, 2)
        apart = self.apart(tokens, self.align(tokens, encoded))
        return -apart.unflatten(-1, x.shape[1:3]).mean(dim=-1).mT


class PrototypeHead(nn.Module):
    """Prototypical networks: a query is compared with the mean of each class.

    Snell, Swersky, Zemel, "Prototypical Networks for Few-shot Learning" (NeurIPS 2017). A picture
    is the mean of its tokens: logit_c = -||mean_p x_p - mean_jm s_jm||^2. It has no weights.
    """

    def encode(self, support: Tensor, shots: Tensor | None = None) -> Encoded:
        """Prototypes [E, C, D]; the arguments are those of :meth:`CrossHead.encode`."""
        tokens = support.flatten(-3, -2)
        if shots is None:
            return (tokens.mean(dim=-2),)
        there = tokens_there(support, shots)[..., None]
        return ((tokens * there).sum(dim=-2) / there.sum(dim=-2),)

    def forward(self, x: Tensor, encoded: Encoded) -> Tensor:
        """Logits [E, Q, C] of the queries x [E, Q, N, D] of E episodes."""
        (prototypes,) = encoded
        return -(x.mean(dim=-2).unsqueeze(2) - prototypes.unsqueeze(1)).square().sum(dim=-1)


def tokens_there(support: Tensor, shots: Tensor) -> Tensor:
    """Which tokens are of pictures that are there: bool [E, C, K N] of [E, C, K, N, D]."""
    *_, pictures, tokens, _ = support.shape
    there = torch.arange(pictures, device=shots.device) < shots[..., None]
    return there.repeat_interleave(tokens, dim=-1)
