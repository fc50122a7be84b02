"""What tells classes apart by their support: a trunk that makes tokens, and a head on them."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lightning_modules.models.few_shot_heads import CrossHead, Encoded, PrototypeHead
from lightning_modules.models.pooling import check_plain, drop_class_token


class FewShotNet(nn.Module):
    """A plain ViT of timm's without a class token, whose patches a head compares.

    Args:
        trunk: of timm's; it loses its class token and its head.
        head: of :mod:`.few_shot_heads`.

    Raises:
        InputError: the trunk is another model.
    """

    def __init__(self, trunk: VisionTransformer, head: CrossHead | PrototypeHead) -> None:
        super().__init__()
        check_plain(trunk, "model.kind is few_shot")
        drop_class_token(trunk)
        if isinstance(trunk.norm, nn.Identity):  # of a model that pools before its norm
            trunk.norm, trunk.fc_norm = trunk.fc_norm, nn.Identity()
        trunk.reset_classifier(0)
        self.trunk, self.head = trunk, head

    def tokens(self, pictures: Tensor) -> Tensor:
        """The patches [B, N, D] of pictures [B, 3, H, W], after the norm."""
        return self.trunk.forward_features(pictures)[:, self.trunk.num_prefix_tokens :]

    def support_tokens(self, support: Tensor) -> Tensor:
        """The patches [E, C, K, N, D] of supports [E, C, K, 3, H, W]."""
        return self.tokens(support.flatten(0, 2)).unflatten(0, support.shape[:3])

    def encode(self, support: Tensor, shots: Tensor | None = None) -> Encoded:
        """What queries are compared with, [E, C, ...]; ``shots`` [E, C], see the head."""
        return self.head.encode(self.support_tokens(support), shots)

    def forward(self, image: Tensor, support: Tensor, shots: Tensor | None = None) -> Tensor:
        """Logits [E * Q, C] of the queries of E episodes.

        Args:
            image: [E * Q, 3, H, W], those of one episode after those of another.
            support: [E, C, K, 3, H, W].
            shots: how many of the K pictures of each class there are, [E, C]; None: all.
        """
        queries = self.tokens(image).unflatten(0, (len(support), -1))
        return self.head(queries, self.encode(support, shots)).flatten(0, 1)


class Compared(nn.Module):
    """A net whose support is encoded: it takes queries alone.

    ``encoded`` has a row for each of them.
    """

    def __init__(self, net: FewShotNet, encoded: Encoded) -> None:
        super().__init__()
        self.net, self.encoded = net, encoded

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B, C] of queries [B, 3, H, W]."""
        return self.net.head(self.net.tokens(image).unsqueeze(1), self.encoded).squeeze(1)
