"""How a plain ViT of timm's makes one vector, or one a class, of its patches: the option ``pool``.

Attention-based aggregation is that of "Augmenting Convolutional networks with attention-based
aggregation" (Touvron et al. 2021, arXiv 2112.13692), as in facebookresearch/deit,
patchconvnet_models.py: a learned query attends to the patches, and its map can be looked at
(``relprop``'s method ``pooling_attention``).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lightning_modules.utils.errors import InputError

Pool = Literal["token", "avg", "attention", "attention_per_class"]
POOLS = get_args(Pool)
MLP_RATIO = 3
EPS = 1e-6  # of the norms, as the published models have it


class Attention(nn.Module):
    """Multi-head attention from some tokens to others, with a map each of queries, keys, values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """W_o (softmax(q k^T / sqrt(d)) v): [B, n, D] and [B, m, D] -> [B, n, D]."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.q, queries), (self.k, keys), (self.v, keys))
        )
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class AttentionPool(nn.Module):
    """A layer in which learned queries c take what they need of the patches x.

    With u = LN1([c; x]):

    - c <- c + gamma_1 * W_o (A v), A = softmax(q k^T / sqrt(d)), q of the rows of c in u
    - c <- c + gamma_2 * MLP(LN2(c))

    One query for all classes has itself among its keys, as published: A is [B, H, 1, 1 + P]. Of one
    query a class (``S60_multi``) the keys are the patches alone: A is [B, H, classes, P].

    Args:
        width: D.
        heads: H.
        init: of gamma_1 and gamma_2; 1e-4 and 1e-6 are published, for models of 60 layers and more.
        classes: number of queries; None: one for all classes.
    """

    def __init__(
        self, width: int, heads: int = 1, init: float = 1e-4, classes: int | None = None
    ) -> None:
        super().__init__()
        self.is_shared = classes is None
        self.query = nn.Parameter(torch.empty(classes or 1, width))
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=EPS) for _ in range(2))
        self.attn = Attention(width, heads)
        self.mlp = Mlp(width, MLP_RATIO * width)
        self.gamma_1, self.gamma_2 = (nn.Parameter(torch.full((width,), init)) for _ in range(2))
        nn.init.trunc_normal_(self.query, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def no_weight_decay(self) -> set[str]:
        return {"query", "gamma_1", "gamma_2"}

    def forward(self, x: Tensor) -> Tensor:
        """[B, P, D] -> [B, D], or [B, classes, D] of a query a class."""
        c = self.query.expand(len(x), -1, -1)
        u = self.norm1(torch.cat([c, x], dim=1))
        queries, patches = u.split([c.shape[1], x.shape[1]], dim=1)
        c = c + self.gamma_1 * self.attn(queries, u if self.is_shared else patches)
        c = c + self.gamma_2 * self.mlp(self.norm2(c))
        return c[:, 0] if self.is_shared else c


class HeadPerClass(nn.Linear):
    """logits_k = w_k c_k + b_k: each class of its own vector, by weights as of a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, classes, D] -> [B, classes]."""
        return (x * self.weight).sum(dim=-1) + self.bias


def pool_by(backbone: nn.Module, pool: Pool, heads: int, init: float) -> None:
    """Change how a plain ViT of timm's pools, in place.

    ``token`` is the class token. Otherwise the model loses its class token, and its final norm
    comes after pooling.

    Args:
        heads, init: of :class:`AttentionPool`.

    Raises:
        InputError: the model is another one, has no class token to read, or no such heads.
    """
    check_plain(backbone, f"model.pool is {pool}")
    if pool == "token":
        if not backbone.has_class_token:
            raise InputError(
                "model.pool is token, and the model has no class token; accepted: "
                "avg, attention or attention_per_class, or a model with a class token"
            )
        backbone.attn_pool, backbone.global_pool = None, "token"
        return
    drop_class_token(backbone)
    if isinstance(backbone.fc_norm, nn.Identity):
        backbone.fc_norm, backbone.norm = backbone.norm, nn.Identity()
    backbone.attn_pool, backbone.global_pool = None, "avg"
    if pool == "avg":
        return
    width, classes = backbone.embed_dim, backbone.num_classes
    if width % heads:
        raise InputError(
            f"model.pool_heads is {heads}, and the model has {width} channels; accepted: a divisor"
        )
    backbone.global_pool = "map"
    per_class = pool == "attention_per_class"
    backbone.attn_pool = AttentionPool(width, heads, init, classes if per_class else None)
    if per_class:
        head = HeadPerClass(width, classes)
        head.load_state_dict(backbone.head.state_dict())
        backbone.head = head


def check_plain(backbone: nn.Module, given: str) -> None:
    """Raises an InputError where a model is no plain ViT of timm's; ``given``: what asks for it."""
    if type(backbone) is not VisionTransformer:
        called = type(backbone).__name__
        raise InputError(
            f"{given}, and the model is a {called}; accepted: a plain ViT of timm's "
            "(VisionTransformer), such as vit_tiny_patch16_224"
        )


def drop_class_token(backbone: VisionTransformer) -> None:
    """Let a model have no class token, nor a place for it among the position embeddings."""
    if not backbone.has_class_token:
        return
    if backbone.pos_embed is not None and not backbone.no_embed_class:
        backbone.pos_embed = nn.Parameter(backbone.pos_embed.detach()[:, 1:].clone())
    backbone.cls_token, backbone.has_class_token = None, False
    backbone.num_prefix_tokens -= 1


def is_pooled(state: dict[str, Tensor]) -> bool:
    """Whether weights are of a model without class token, as :func:`pool_by` makes it."""
    return "fc_norm.weight" in state and "cls_token" not in state
