"""TransFG: the last block of a ViT sees the parts of the picture that attention leads to.

He et al., "TransFG: A Transformer Architecture for Fine-grained Recognition" (AAAI 2022, arXiv
2103.07976), as in TACJu/TransFG, models/modeling.py. A plain ViT of timm's has the same weights,
with and without.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from timm.layers import Attention, PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from lightning_modules.models.pooling import check_plain
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.terminal import counted


def attended(maps: Iterable[Tensor]) -> Tensor:
    """Row of the class token of F = A^(L-1) ... A^1, head by head: [B, H, N].

    As published no identity is added, and heads are not averaged. The row is multiplied from the
    left, so that no product of two maps is made and no map is kept.

    Args:
        maps: A^(L-1) first, [B, H, N, N] each.
    """
    row: Tensor | None = None
    for A in maps:
        row = A[:, :, 0] if row is None else torch.einsum("bhn,bhnm->bhm", row, A)
    assert row is not None
    return row


def select_parts(row: Tensor, prefix: int = 1) -> Tensor:
    """S_h = argmax_j F[h, 0, j] over the patches: their numbers, [B, H]; repeats are allowed.

    Args:
        row: of :func:`attended`.
        prefix: tokens before the patches, which are left out.
    """
    return row[..., prefix:].argmax(dim=-1)


def contrastive_loss(features: Tensor, labels: Tensor, margin: float = 0.4) -> Tensor:
    """1/B^2 (sum_{y_i = y_j} (1 - z_i z_j) + sum_{y_i != y_j} max(z_i z_j - margin, 0)).

    Over all ordered pairs, i = j included, whose share is 0.

    Args:
        features: class tokens [B, D]; z are these, normalised to length 1.
        labels: classes [B].
        margin: the similarity that two classes may have, -1 to 1.
    """
    z = nn.functional.normalize(features, dim=-1)
    similar, same = z @ z.mT, labels[:, None] == labels
    return torch.where(same, 1 - similar, (similar - margin).clamp(min=0)).mean()


class PartBlocks(nn.Sequential):
    """The blocks of a ViT, in place of timm's; the last gets [x_cls; x_{S_1}; ...; x_{S_H}].

    Indices carry no gradient. They are found under ``no_grad``, from maps that are made anew of
    what entered each block: so fused attention stays, and no map is kept.

    Attributes:
        prefix: class token and registers, which the last block gets, too.
        selected: patch numbers [B, H] of the last forward pass.
    """

    def __init__(self, blocks: Iterable[nn.Module], prefix: int) -> None:
        super().__init__(*blocks)
        self.prefix = prefix
        self.selected: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[B, prefix + P, D] -> [B, prefix + H, D]."""
        *blocks, last = self
        entering = []
        for block in blocks:
            entering.append(x)
            x = block(x)
        with torch.no_grad():
            self.selected = select_parts(attended(last_first(blocks, entering)), self.prefix)
            kept = torch.arange(self.prefix, device=x.device).expand(len(x), -1)
            index = torch.cat([kept, self.selected + self.prefix], dim=1)
        return last(x.gather(1, index[..., None].expand(-1, -1, x.shape[-1])))


def last_first(blocks: list[nn.Module], entering: list[Tensor]) -> Iterator[Tensor]:
    """A of each block, the last one first, of the tokens that entered it."""
    for block, x in zip(reversed(blocks), reversed(entering), strict=True):
        yield attention_map(block, x)


def attention_map(block: nn.Module, x: Tensor) -> Tensor:
    """A of a block of timm's ViT for tokens [B, N, D] that enter it, before dropout: [B, H, N, N].

    In float32 at least, so that the largest is one.
    """
    attn = block.attn
    qkv = attn.qkv(block.norm1(x)).unflatten(-1, (3, attn.num_heads, attn.head_dim))
    q, k, _ = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    q, k = attn.q_norm(q), attn.k_norm(k)
    exact = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        return (q.to(exact) * attn.scale @ k.to(exact).mT).softmax(dim=-1)


def select_in_last_block(backbone: nn.Module) -> None:
    """Let the last block of a plain ViT of timm's see parts alone, in place.

    Raises:
        InputError: the model is another one, or its head reads no class token.
    """
    given = "model.parts is true"
    check_plain(backbone, given)
    check_class_token(backbone, given)
    plain = all(type(b) is Block and type(b.attn) is Attention for b in backbone.blocks)
    if not plain or len(backbone.blocks) < 2:
        raise InputError(
            f"{given}, and the model has {counted(len(backbone.blocks), 'block')}, of the class "
            f"{type(backbone.blocks[0]).__name__}; accepted: two or more of timm's Block with its "
            "Attention"
        )
    backbone.blocks = PartBlocks(backbone.blocks, backbone.num_prefix_tokens)


def check_class_token(backbone: VisionTransformer, given: str) -> None:
    """Raises an InputError where a plain ViT's head does not read the class token."""
    if not (backbone.has_class_token and backbone.global_pool == "token"):
        raise InputError(
            f"{given}, and the head does not read a class token (it pools by "
            f"{backbone.global_pool}); accepted: model.pool=token and a model with a class token"
        )


class OverlappingPatches(PatchEmbed):
    """timm's, with patches ``stride`` pixels apart: floor((side - P) / S) + 1 a side."""

    def __init__(self, *args, stride: int, **options) -> None:
        self.stride = stride
        super().__init__(*args, **options)
        self.proj.stride = (stride, stride)

    def _init_img_size(self, img_size):
        size, *_ = super()._init_img_size(img_size)
        grid = None if size is None else self.dynamic_feat_size(size)
        return size, grid, None if grid is None else grid[0] * grid[1]

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        rows, columns = (
            (side - patch) // self.stride + 1
            for side, patch in zip(img_size, self.patch_size, strict=True)
        )
        return rows, columns


def check_stride(plain: nn.Module, stride: int) -> None:
    """Raises an InputError where patches of a model cannot be so far apart.

    Args:
        plain: the model with patches side by side; it needs no weights.
        stride: of the patches, in pixels.
    """
    given = f"model.patch_stride is {stride}"
    check_plain(plain, given)
    embed = plain.patch_embed
    if type(embed) is not PatchEmbed or embed.dynamic_img_pad:
        raise InputError(
            f"{given}, and the model makes tokens by {type(embed).__name__}; accepted: one whose "
            "patches are cut by a convolution, without dynamic_img_pad"
        )
    if not 1 <= stride <= min(embed.patch_size):
        raise InputError(
            f"{given}, and patches have {min(embed.patch_size)} pixels a side; accepted: 1 to "
            f"{min(embed.patch_size)}"
        )


def boxes_of(selected: Tensor, embed: PatchEmbed, size: tuple[int, int]) -> Tensor:
    """Left, top, right, bottom in pixels of patches [B, K] of a picture of ``size`` (H, W).

    [B, K, 4].
    """
    (height, width), (down, across) = embed.patch_size, embed.proj.stride
    _, columns = embed.dynamic_feat_size(size)
    top, left = selected // columns * down, selected % columns * across
    return torch.stack([left, top, left + width, top + height], dim=-1)
