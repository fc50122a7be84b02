"""What a recorder saw of a forward pass."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from torch.autograd.graph import GradientEdge

from relprop.backward import Backward


@dataclass
class Embedding:
    """The first layer on the input: a convolution of a picture, or a linear layer."""

    input: Tensor  # [B, C, H, W], or [B, ..., k] of a linear layer
    output: Tensor  # [B, D, rows, columns], or [B, ..., D]
    kernel: tuple[int, int] | None = None  # of a convolution
    options: dict = field(default_factory=dict)  # stride, padding, dilation


@dataclass
class Recording:
    """What a recorder saw.

    What tells where the tokens of the input went is kept until a trace has looked at it.
    """

    batch_size: int
    backward: Backward = field(default_factory=Backward)
    attention: list[Tensor] = field(default_factory=list)  # [B, H, N, N] a block, or [B*H, N, N]
    source: Tensor | None = None  # pixels [B, C, H, W] or embeddings [B, N, D]
    input: Tensor | None = None  # as it was given, floats, or the first look-up of ids
    is_text: bool = False  # whether it is of ids
    has_others: bool = False  # whether other inputs may be tokens as well
    embedding: Embedding | None = None
    values: list[Tensor] = field(default_factory=list)  # V of each block: [B, H, N, d], [B*H, N, d]
    # A V of each block, once or in parts: where it is in the graph, which takes no memory
    products: list[list[GradientEdge]] = field(default_factory=list)
    # Sums of streams, [B, N, D], below the first attention map, between it and the second, ...
    sums: list[list[Tensor]] = field(default_factory=lambda: [[]])

    def forget_tokens(self) -> None:
        self.embedding = None
        self.values, self.products, self.sums = [], [], []
