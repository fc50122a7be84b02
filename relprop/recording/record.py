"""What a recorder saw of a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from relprop.errors import UnsupportedModel
from relprop.recording.graph import Product, Running, Walk
from relprop.recording.tags import State, Tag
from relprop.recording.tail import Step, step_of


@dataclass(eq=False)
class Embedding:
    """A first layer on a source: a convolution of a picture, or a linear layer."""

    input: Tensor  # [B, C, H, W], or [B, ..., k] of a linear layer
    output: Tensor  # [B, D, rows, columns], or [B, ..., D]
    kernel: tuple[int, ...] | None = None  # of a convolution
    options: dict = field(default_factory=dict)  # stride, padding, dilation


@dataclass(eq=False)
class Source:
    """What relevance flows back to: an input of numbers, the embedded ids, or a parameter.

    Attributes:
        tensor: pixels [B, C, H, W], embeddings [B, N, D] or other numbers.
        is_text: it is embedded ids.
        ids: the memory of its ids, and the look-up's weight.
        words, table: its ids [B, N], and the embedding of the vocabulary, [V, D].
        embeddings: first layers on it.
        sums: it with the constants of its tokens, such as positions; the last is x_0.
    """

    tensor: Tensor
    is_text: bool = False
    ids: tuple = ()
    weight: int = 0
    words: Tensor | None = None
    table: Tensor | None = None
    embeddings: list[Embedding] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list)


@dataclass(eq=False)
class AttentionMap:
    """A map that values were multiplied by.

    Attributes:
        tensor: as it was multiplied.
        order: of its dimensions, so that it is [B, H, n, m], [B*H, n, m], or with windows between
            or before.
        number: of the tensor, in the order of recording.
        depth: attention maps that its queries have been through.
        query, key: states that it leads from and to.
        values: V, [..., m, d], and its place in the graph; None of constants.
        products: A V in the graph, once or in parts of the heads or channels.
        again: it is used in a later block again.
        apart: the same attention is not pending in all of a token of the values.
    """

    tensor: Tensor
    order: tuple[int, ...]
    number: int
    depth: int
    query: State | None
    key: State | None
    values: tuple[GradientEdge, torch.Size] | None
    products: list[tuple[GradientEdge, torch.Size, Product]] = field(default_factory=list)
    again: bool = False
    apart: bool = False

    @property
    def leads_from_input(self) -> bool:
        """Whether its queries are tokens of a source, and none of the model's own alone."""
        return self.query is not None and bool(self.query.home)

    @property
    def leads_to_input(self) -> bool:
        """Whether its keys are."""
        return self.key is not None and bool(self.key.home)

    def canonical(self, x: Tensor, batch: int) -> Tensor:
        """A map, or something of its shape, as [B, H, ..., n, m]."""
        x = x.permute(self.order)
        return x.unflatten(0, (batch, -1)) if x.ndim == 3 else x

    def check(self, batch: int) -> None:
        """Raises UnsupportedModel where it is not of whole samples."""
        if self.tensor.shape[self.order[0]] % batch:
            raise UnsupportedModel(
                f"attention maps of shape {list(self.tensor.shape)} for a batch of {batch}; "
                "accepted: batch first, [batch, heads, tokens, tokens]"
            )


@dataclass(eq=False)
class Stream:
    """What a head may read tokens of: a sum of two streams, or of one and a constant; or an A V.

    Attributes:
        is_read: it is token by token, and after attention.
        maps: attention that the sum takes up, or that the product is of.
        product: of an A V.
        residual: of a sum that takes up attention, its other stream: its place, and its shape.
        base, branch: of a sum of two streams, what was there before, and what is added to it.
    """

    tensor: Tensor
    tag: Tag
    is_read: bool
    maps: tuple[int, ...] = ()
    product: Product | None = None
    residual: tuple[GradientEdge, torch.Size] | None = None
    base: Tensor | None = None
    branch: Tensor | None = None


@dataclass(eq=False)
class Recording:
    """What a recorder saw."""

    batch_size: int
    running: Running = field(default_factory=Running)
    sources: dict[str, Source] = field(default_factory=dict)
    maps: list[AttentionMap] = field(default_factory=list)
    streams: dict[Node | None, Stream] = field(default_factory=dict)  # in the order of recording
    cuts: list[Stream] = field(default_factory=list)  # sums that all passes, the lowest first
    # After the last attention map: function, arguments and output of each call, while they are
    # recorded, and then what is kept of them.
    calls: list[tuple[Callable, tuple, dict, Any]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    count: int = 0  # of tensors
    widest: int = 0  # bytes of the largest tensor
    exponentials: dict[int, list[int]] = field(default_factory=dict)  # of scores, by their origin
    is_coupled: bool = False  # samples may be among each other's

    @property
    def without_residual(self) -> frozenset[int]:
        """Numbers of the maps from the input that no sum has taken up: nothing leads past them."""
        taken = {number for state in self._sums() for number in state.maps}
        from_input = {i for i, x in enumerate(self.maps) if x.leads_from_input}
        return frozenset(from_input - taken)

    @property
    def to_constants(self) -> frozenset[int]:
        """Numbers of the maps whose attention was added to constants, such as own tokens."""
        return frozenset(n for state in self._sums() if state.base is None for n in state.maps)

    def _sums(self) -> list[State]:
        """The states that sums have made, or handed on."""
        sums = (s.tag.state for s in self.streams.values() if s.product is None)
        return [state for state in sums if state is not None]

    def next_number(self) -> int:
        self.count += 1
        return self.count

    def read(self, number: int) -> None:
        """Note that a tensor was read: what is newer is passed by."""
        while self.cuts and self.cuts[-1].tag.number > number:
            self.cuts.pop()

    def end(self) -> None:
        """Keep of the last calls no tensor."""
        self.steps = [step_of(*call) for call in self.calls]
        self.calls.clear()

    @contextmanager
    def walk(self, walk: Walk | None) -> Iterator[None]:
        """What backward passes within carry; afterwards what they carried before."""
        before, self.running.walk = self.running.walk, walk
        try:
            yield
        finally:
            self.running.walk = before
