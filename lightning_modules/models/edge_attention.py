"""Edge-Set Attention: a transformer whose tokens are the directed edges of a graph.

"An end-to-end attention-based approach for learning on graphs" (Buterez, Janet, Oglic, Lio; Nature
Communications 16, 2025, arXiv 2402.10793). Layers are named by letters: in M an edge attends to
those that it shares a node with, in S to all, P pools edges by learned queries, and an S after P is
of these. What is not as in the published code stands in docs/related/edge_set_attention.md.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import Matching

Norm = Literal["pre", "post"]
MlpKind = Literal["standard", "gated"]
NORMS = get_args(Norm)
EPS = 1e-8  # of the norms, as published
LAYERS = Matching(
    r"[MS]+(PS*)?",
    "one or more of M and S, then at most one P, then any number of S, as MMSP or MSPS",
)


class MultiheadAttentionBlock(nn.Module):
    """MAB(X, Y) = o + mish(W_o o), o = softmax(q k^T / sqrt(d) + mask) v, heads side by side.

    q is of X, [B, n, D]; k and v are of Y, [B, m, D].

    Args:
        width: D.
        heads: H.
        dropout: of the attention weights.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, n, D]; ``mask`` as of torch's attention, [B, 1, n or 1, m]: True is attended to."""
        q, k, v = (
            layer(z).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, z in ((self.q, x), (self.k, y), (self.v, y))
        )
        dropout = self.dropout if self.training else 0.0
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        o = o.transpose(1, 2).flatten(2)
        return o + F.mish(self.o(o))


class GatedLayer(nn.Module):
    """W_2 (silu(g) * y), (y, g) = W_1 x."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(inputs, 2 * hidden), nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y, g = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(F.silu(g) * y)


def make_mlp(kind: MlpKind, width: int, hidden: int, layers: int) -> nn.Sequential:
    """``layers`` linear or gated layers with a mish between, [..., D] -> [..., D]."""
    sides = [width, *[hidden] * (layers - 1), width]
    made: list[nn.Module] = []
    for inputs, outputs in zip(sides[:-1], sides[1:], strict=True):
        gated = GatedLayer(inputs, hidden, outputs)
        made += [gated if kind == "gated" else nn.Linear(inputs, outputs), nn.Mish()]
    return nn.Sequential(*made if kind == "gated" else made[:-1])


class Residual(nn.Module):
    """omega * x + f, omega [D] learned (Admin: Liu et al., EMNLP 2020).

    With n sums in the model it begins with sqrt((n + 1) / log(n + 1) - 1), as in the package
    admin_torch.
    """

    def __init__(self, width: int, sums: int) -> None:
        super().__init__()
        start = math.sqrt((sums + 1) / math.log(sums + 1) - 1)
        self.omega = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        return self.omega * x + f


class Layer(nn.Module):
    """What the layers of all letters have: attention, MLP, their norms and residuals.

    Args:
        width, heads, dropout: of the attention; ``dropout`` is of both branches, too.
        norm: ``pre`` or ``post``.
        mlp, mlp_width, mlp_layers: of :func:`make_mlp`.
        sums: residual sums in the model, for :class:`Residual`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float,
        norm: Norm,
        mlp: MlpKind,
        mlp_width: int,
        mlp_layers: int,
        sums: int,
    ) -> None:
        super().__init__()
        self.is_pre = norm == "pre"
        self.attn = MultiheadAttentionBlock(width, heads, dropout)
        self.mlp = make_mlp(mlp, width, mlp_width, mlp_layers)
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=EPS) for _ in range(2))
        self.drop = nn.Dropout(dropout)
        if not self.is_pre:
            self.add1, self.add2 = Residual(width, sums), Residual(width, sums)

    def after_attention(self, r: Tensor) -> Tensor:
        """The MLP with its residual: r + MLP(LN(r)), or LN(omega r + MLP(r))."""
        if self.is_pre:
            return r + self.drop(self.mlp(self.norm2(r)))
        return self.norm2(self.add2(r, self.drop(self.mlp(r))))


class AttentionLayer(Layer):
    """M or S: tokens attend to tokens.

    ``pre``, as coded: z = LN(x), r = z + MAB(z, z), so that the residual is of the *normalised* x,
    unlike elsewhere; x' = r + MLP(LN(r)). ``post``: r = LN(omega x + MAB(x, x)),
    x' = LN(omega' r + MLP(r)).
    """

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[B, n, D] -> [B, n, D]; ``mask`` [B, 1, n or 1, n]."""
        if self.is_pre:
            z = self.norm1(x)
            return self.after_attention(z + self.drop(self.attn(z, z, mask)))
        return self.after_attention(self.norm1(self.add1(x, self.drop(self.attn(x, x, mask)))))


class PoolingLayer(Layer):
    """P: learned seeds S [k, D] attend to tokens; r = MAB(S, x), without a residual to S.

    ``pre``: x is normalised first; ``post``: r is. The MLP is as in :class:`AttentionLayer`.
    """

    def __init__(self, seeds: int, width: int, *options, **more) -> None:
        super().__init__(width, *options, **more)
        self.seeds = nn.Parameter(torch.empty(seeds, width))
        nn.init.xavier_normal_(self.seeds)
        if not self.is_pre:
            del self.add1

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[B, E, D] -> [B, k, D]; ``mask`` [B, 1, 1, E]."""
        seeds = self.seeds.expand(len(x), -1, -1)
        if self.is_pre:
            return self.after_attention(self.attn(seeds, self.norm1(x), mask))
        return self.after_attention(self.norm1(self.attn(seeds, x, mask)))


class EdgeSetAttention(nn.Module):
    """Classifies graphs: edges -> tokens -> layers -> one vector -> logits.

    With X = MLP(edges) and the layers of ``layers`` before P, enc = layers(X) + X. P and the layers
    after it make k vectors of enc; without a P it is enc itself. The vector of the graph is
    mish(W mean), the mean being over seeds or real edges, and logits are linear in it.

    Args:
        features: F, of an edge: both ends' and its own.
        classes: C.
        layers: letters, such as ``MMSP``; see :func:`check_layers`.
        width: D, of tokens.
        heads: H, of attention.
        seeds: k, of P.
        embed_width: of the hidden layer that makes tokens of edges.
        graph_width: of the vector of a graph.
        options: those of :class:`Layer`.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        layers: str,
        width: int,
        heads: int,
        seeds: int,
        embed_width: int,
        graph_width: int,
        **options,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.embed = nn.Sequential(
            nn.Linear(features, embed_width), nn.Mish(), nn.Linear(embed_width, width)
        )
        options = {"width": width, "heads": heads, "sums": 2 * len(layers), **options}
        self.blocks = nn.ModuleList(
            PoolingLayer(seeds, **options) if letter == "P" else AttentionLayer(**options)
            for letter in layers
        )
        self.graph = nn.Linear(width, graph_width)
        self.head = nn.Linear(graph_width, classes)

    def forward(self, edges: Tensor, attention_mask: Tensor, edge_index: Tensor) -> Tensor:
        """Logits [B, C].

        Args:
            edges: features of the edges, [B, E, F].
            attention_mask: False on padding, [B, E].
            edge_index: the nodes that each edge leads from and to, [B, E, 2].
        """
        real = attention_mask.bool()
        masks = {"M": neighbours(edge_index, real)[:, None], "S": real[:, None, None]}
        X = x = self.embed(edges)
        for letter, block in zip(self.layers, self.blocks, strict=True):
            if letter == "P":
                x = block(x + X, masks["S"])
                masks["S"] = None  # seeds have no padding
            else:
                x = block(x, masks[letter])
        if "P" in self.layers:
            mean = x.mean(dim=1)
        else:
            weights = attention_mask.to(x) / attention_mask.to(x).sum(dim=1, keepdim=True)
            mean = ((x + X) * weights[..., None]).sum(dim=1)
        return self.head(F.mish(self.graph(mean)))


def share_a_node(edge_index: Tensor) -> Tensor:
    """True where two different edges have any end in common, bool [..., E, E].

    ``edge_index`` [..., E, 2]: the nodes that each edge leads from and to.
    """
    one, other = edge_index[..., :, None, :], edge_index[..., None, :, :]
    shared = (one == other).any(dim=-1) | (one == other.flip(-1)).any(dim=-1)
    return shared & ~torch.eye(shared.shape[-1], dtype=torch.bool, device=shared.device)


def neighbours(edge_index: Tensor, real: Tensor) -> Tensor:
    """Which edges each attends to in M, bool [B, E, E].

    Those that it shares a node with, and itself if there are none. ``real`` [B, E] is False on
    padding, which attends to itself alone, so that no row is empty.
    """
    there = share_a_node(edge_index) & real[:, :, None] & real[:, None, :]
    alone = ~there.any(dim=-1)
    return there | torch.diag_embed(alone)


def check_layers(option: str, layers: str, width: int, heads: int) -> None:
    """Raises an InputError where letters make no model, or heads do not divide the width."""
    if layers not in LAYERS:
        raise InputError(f"{option}: {layers!r} is not accepted; accepted: {LAYERS}")
    if width % heads:
        raise InputError(
            f"model.heads is {heads}, and the tokens have {width} channels; accepted: a divisor"
        )
