"""A recorded forward pass, and what methods may ask it for."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from relprop.errors import UnsupportedModel
from relprop.recording.record import AttentionMap, Recording
from relprop.recording.run import forward
from relprop.rules import RuleSet
from relprop.walks.apart import check_apart
from relprop.walks.backward import Backward, Top
from relprop.walks.bimodal import gathered
from relprop.walks.ends import BySource, Ends
from relprop.walks.maps import (
    check_factors,
    check_keys,
    check_taken_up,
    check_whole,
    streams_after,
)
from relprop.walks.places import Places
from relprop.walks.products import Product, walk_product
from relprop.walks.starts import Starts
from relprop.walks.tokens import Tokens

DEFAULT_EPS = 1e-9

Found = Tensor | BySource
"""What was found of the only source, or of several by their names."""


class Trace:
    """One recorded forward pass: ask it for as many classes and rule sets as you like.

    ``logits`` [B, C]; ``attention`` a map each, [B, H, n, m], in the order of the model. Maps are 0
    on padding. ``mask``: the input's attention mask [B, N], None without. The recorded graph lives
    as long as the trace, unless it is ``single_use``.
    """

    def __init__(self, logits: Tensor, recording: Recording, mask: Tensor | None = None) -> None:
        if not recording.sources:
            raise UnsupportedModel(
                "no embedding of the ids was seen; accepted: ids that go through "
                "torch.nn.Embedding or torch.nn.functional.embedding, or an input of floats"
            )
        if not logits.requires_grad:
            raise UnsupportedModel(
                "the logits do not depend on the input by torch functions (is the model scripted, "
                "or run under no_grad?)"
            )
        self._recording, self.mask = recording, mask
        self._backward = Backward(logits, recording)
        self._ends = Ends(self._backward)
        self._tokens = Tokens(self._ends, mask)
        self._against: Tensor | None = None
        # If True, a backward pass marked ``last`` frees the graph as it goes, so that its memory is
        # reused. A pass after it is autograd's RuntimeError.
        self.single_use = False

    # ---------------------------------------------------------------------- what was recorded

    @property
    def logits(self) -> Tensor:
        return self._backward.logits.detach()

    @property
    def attention(self) -> tuple[Tensor, ...]:
        """A^b of every map, [B, H, n, m]."""
        return tuple(self._finished(x.tensor.detach(), x) for x in self._recording.maps)

    @property
    def depth(self) -> int:
        """Number of attention maps."""
        return len(self._recording.maps)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of what relevance flows back to: inputs, and parameters that are ``learned``."""
        return tuple(self._recording.sources)

    @property
    def attention_nbytes(self) -> list[int]:
        """Bytes of every attention map."""
        return [x.tensor.nbytes for x in self._recording.maps]

    @property
    def stream_nbytes(self) -> int:
        """Bytes of the largest sum of streams, such as the tokens [B, N, D]; 0 of none."""
        sums = self._recording.streams.values()
        return max((s.tensor.nbytes for s in sums if s.product is None), default=0)

    def versus(self, against: Tensor | None) -> Trace:
        """This trace, of which what is explained is y_target - y_against, ``against`` [B]."""
        trace = copy.copy(self)
        trace._against = against
        return trace

    @functools.cached_property
    def hidden(self) -> tuple[Tensor, ...]:
        """The stream before the first block, if there is one source, and after each, [B, N, D].

        Raises:
            UnsupportedModel: the model is not one chain of blocks.
        """
        before = [] if len(self.sources) > 1 else [self._ends.embedded(self.sources[0])]
        return (*before, *streams_after(self._recording, self._maps(0)))

    # -------------------------------------------------------------------------------- tokens

    def places_of(self, name: str) -> Places | None:
        """Where the tokens of a source lie; None where nobody knows what its tokens are."""
        return self._ends.places_of(name)

    @property
    def places(self) -> Places:
        """Those of the only source."""
        return self._tokens.places

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the patches of the only source, None where it is no picture."""
        sides = self.places.sides
        return None if sides is None else (sides[0].count, sides[1].count)

    @property
    def tokens(self) -> int:
        """Tokens of the last attention map, those that are no part of the input among them."""
        return self._tokens.count

    @property
    def prefix(self) -> int:
        """Tokens of a block before those of the input: class token, registers, ...

        Raises:
            UnsupportedModel: the tokens of the last block are not those of the input in its order.
        """
        return self._tokens.prefix

    @property
    def valid(self) -> Tensor | None:
        """False on padding, [B, N], of the tokens of a block; None without a mask of them."""
        return self._tokens.valid

    # ------------------------------------------------------------------------ backward passes

    def gradient(
        self, target: Tensor, start_layer: int = 0, *, last: bool = False
    ) -> tuple[Tensor, ...]:
        """G^b = d y_t / d A^b of maps ``start_layer`` and up, [B, H, n, m]; ``target`` [B].

        ``last``: no backward pass follows; of a recording of a single use it frees the graph.
        """
        maps = self._maps(start_layer)
        free, tensors = self._frees(last), [x.tensor for x in maps]
        found = self._backward.pull(*self._top(target), tensors, None, free)
        return tuple(self._finished(g, x) for g, x in zip(found, maps, strict=True))

    def relevance(
        self,
        target: Tensor,
        start_layer: int = 0,
        rules: str | RuleSet = "paper",
        eps: float = DEFAULT_EPS,
        *,
        last: bool = False,
    ) -> tuple[Tensor, ...]:
        """R^b, the relevance of A^b for class ``target`` [B], from ``start_layer`` up.

        ``last`` as in :meth:`gradient`.
        """
        maps = self._maps(start_layer)
        found = self._read([x.tensor for x in maps], target, rules, eps, last)
        return tuple(self._finished(r, x) for r, x in zip(found, maps, strict=True))

    def source_relevance(
        self,
        target: Tensor,
        rules: str | RuleSet = "paper",
        eps: float = DEFAULT_EPS,
        *,
        last: bool = False,
    ) -> Found:
        """Relevance of the pixels [B, C, H, W], of the embeddings [B, N, D] or of other numbers.

        Of a text it is of word and position embedding together. By name where there are several
        sources. ``last`` as in :meth:`gradient`.
        """
        return self._of_sources(self._ends.given, target, rules, eps, last)

    def input_relevance(
        self,
        target: Tensor,
        rules: str | RuleSet = "attnlrp",
        eps: float = DEFAULT_EPS,
        *,
        last: bool = False,
    ) -> Found:
        """As :meth:`source_relevance`, but of the word embeddings of a text alone."""
        return self._of_sources(self._ends.words, target, rules, eps, last)

    def token_relevance(
        self,
        target: Tensor,
        rules: str | RuleSet = "attnlrp",
        eps: float = DEFAULT_EPS,
        *,
        last: bool = False,
    ) -> Found:
        """Relevance of token and position embedding, which enter the first block: [B, N].

        Of all tokens, those of the model's own among them. For BERT it is the sum before its
        layer norm. By name where there are several sources.
        """
        found = self._of_embedded(target, rules, eps, last)
        return self.by_source({name: self._ends.by_tokens(name, r) for name, r in found.items()})

    def not_finite(
        self, target: Tensor, rules: str | RuleSet = "paper", eps: float = DEFAULT_EPS
    ) -> str | None:
        """Where logits, relevance or gradient are first not finite; None if they are everywhere.

        It takes backward passes that look at every value: for when a map has turned out not to be.
        """
        if not self.logits.isfinite().all():
            return "the forward pass: the logits are not finite"
        walk, pull = self._backward.ruled(rules, eps), self._backward.pull
        culprits: list[str] = []
        walk.culprits = culprits
        maps = [x.tensor for x in self._recording.maps]
        tensors = maps or [self._ends.embedded(self.sources[0])]
        pull(*self._top(target), tensors, walk)
        if culprits:
            return f"the relevance rule of {culprits[0]}"
        finite = all(g.isfinite().all() for g in pull(*self._top(target), tensors, None))
        return None if finite else "the gradient of the attention"

    def token_weights(
        self, target: Tensor, rules: str | RuleSet = "paper", eps: float = DEFAULT_EPS
    ) -> Tensor:
        """The share of the output's relevance that each token of the last block holds, [B, N].

        Rows of a map are weighted by it. One-hot at the class token where the head reads that
        alone, the two halves of a distilled model, spread out where tokens are averaged. Costs no
        more than the head: the walk stops at the last block's output.

        Raises:
            UnsupportedModel: the head reads more than the tokens of the last block.
        """
        return self._starts.of_last_block(self._top(target), self._backward.ruled(rules, eps))

    # --------------------------------------------------------------- maps of the input's tokens

    def multiplied(self, product: Product, target: Tensor, rules: RuleSet, eps: float) -> Found:
        """What the tokens of the input weigh, [B, count], in a product of attention maps.

        It is the last backward pass.
        """
        check_factors(self._recording, product)
        check_taken_up(self._starts)
        check_keys(self._backward)
        top, walk = self._top(target), self._backward.ruled(rules, eps)
        at = (self._starts.tensors, self._starts.weights(top, walk))
        free = self._frees(last=True)
        found = walk_product(self._backward, product, top, at, self._ends.tensors, walk, free)
        return self.by_source(self._ends.summed(found))

    def gathered(self, target: Tensor, rules: RuleSet, eps: float) -> Found:
        """What the tokens that the head reads have taken of the input's, [B, count].

        By the published rule for several sets of tokens (:mod:`relprop.walks.bimodal`).
        """
        check_whole(self._recording)
        check_taken_up(self._starts)
        A, G = self.attention, self.gradient(target)
        factors = [(a * g).relu().mean(dim=1) for a, g in zip(A, G, strict=True)]
        held = self._starts.shares(self._top(target), self._backward.ruled(rules, eps))
        return self.by_source(gathered(self._starts, self._ends, held, factors))

    def input_tokens(self, target: Tensor, rules: RuleSet, eps: float) -> Found:
        """:meth:`token_relevance` of the input's tokens alone, [B, count]."""
        ends, found = self._ends, self._of_embedded(target, rules, eps, last=True)
        plain = {n: ends.of_source(n, r) for n, r in found.items() if ends.is_embedded_as_given(n)}
        names = [name for name in found if name not in plain]
        if names:  # what is freed lies above them
            tensors = [ends.embedded(name) for name in names]
            plain = ends.followed(tensors, [found[name] for name in names]) | plain
        return self.by_source(plain)

    def streamed(
        self, streams: Sequence[Tensor], target: Tensor, rules: RuleSet, eps: float
    ) -> Found:
        """Relevance of the tokens of streams [B, N, D], summed at those of the input."""
        found = self._read(streams, target, rules, eps)
        return self.by_source(self._ends.followed(streams, found))

    def summed(self, found: Found) -> Found:
        """Relevance of the sources by pixels, [B, H, W], or by tokens, [B, count]."""
        if isinstance(found, Tensor):
            return self._ends.of_source(self.sources[0], found)
        return {name: self._ends.of_source(name, x) for name, x in found.items()}

    def by_source(self, found: BySource) -> Found:
        """What was found of the only source, or of several by their names."""
        if len(self.sources) > 1:
            return {name: found[name] for name in self.sources}
        return found[self.sources[0]]

    @property
    def last_maps(self) -> frozenset[int]:
        """Numbers of the maps that the tokens which the head reads took up last."""
        return self._starts.last_maps

    def only_map(self, depth: int) -> frozenset[int]:
        """Number of the only map of a depth."""
        found = [i for i, x in enumerate(self._maps(0)) if x.depth == depth]
        if len(found) != 1:
            raise UnsupportedModel(
                f"{len(found)} attention maps are of depth {depth}; accepted: a model of one chain "
                "of blocks, two or more"
            )
        return frozenset(found)

    # ---------------------------------------------------------------------------- within

    def check_apart(self, target: Tensor) -> None:
        """Raises UnsupportedModel where a sample's score depends on the input of another."""
        check_apart(self._backward, self._top(target))

    def check_start_layer(self, start_layer: int) -> None:
        if not 0 <= start_layer < max(1, self.depth):
            raise ValueError(f"start_layer is {start_layer}; accepted: 0 to {self.depth - 1}")

    @property
    def _starts(self) -> Starts:
        return self._tokens.starts

    def _maps(self, start_layer: int) -> list[AttentionMap]:
        self.check_start_layer(start_layer)
        return self._tokens.maps[start_layer:]

    def _top(self, target: Tensor) -> Top:
        return self._backward.top(target, self._against)

    def _read(self, tensors, target, rules, eps, last=False) -> tuple[Tensor, ...]:
        """Relevance of tensors."""
        walk = self._backward.ruled(rules, eps)
        return self._backward.read(self._top(target), tensors, walk, self._frees(last))

    def _of_sources(self, place: Callable[[str], Tensor], target, rules, eps, last) -> Found:
        """Relevance of the sources, each at its place."""
        found = self._read([place(name) for name in self.sources], target, rules, eps, last)
        return self.by_source(dict(zip(self.sources, found, strict=True)))

    def _of_embedded(self, target, rules, eps, last) -> BySource:
        """Relevance of the sources' token and position embeddings."""
        tensors = [self._ends.embedded(name) for name in self.sources]
        found = self._read(tensors, target, rules, eps, last)
        return dict(zip(self.sources, found, strict=True))

    def _frees(self, last: bool) -> bool:
        """Whether the next pass frees the graph. What has to be known of it is found out before."""
        if not (last and self.single_use):
            return False
        for name in self.sources:
            with contextlib.suppress(UnsupportedModel):
                self.places_of(name)
        if self._recording.maps:
            with contextlib.suppress(UnsupportedModel):
                self._tokens.settle()
        return True

    def _finished(self, x: Tensor, map: AttentionMap) -> Tensor:
        """[B, H, n, m], and 0 on padding."""
        return self._tokens.without_padding(map.canonical(x, self._recording.batch_size))


def record(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Tensor],
    *,
    output: Callable[[object], Tensor] | None = None,
    position: int | Tensor | None = None,
    learned: Sequence[str] = (),
    largest: int | None = None,
) -> Trace:
    """Run ``model`` once, in evaluation, and record what relevance needs.

    The model's parameters, gradients and train/eval state are left as they were. It runs in the
    parameters' own precision: autocast is off, the model's own too.

    Args:
        inputs: a tensor (pixels [B, C, H, W], ids [B, N], or numbers of another shape, such as
            vectors [B, N] and sequences of vectors [B, N, F]) or a mapping of keyword tensors; an
            ``attention_mask`` [B, N] among them says which tokens are padding. Each of numbers
            that is no mask is a source, and so are embedded ids.
        output: makes scores [B, C] of what the model returns, as ``lambda o: o.logits[:, 0]``.
            None: it returns logits [B, C], alone, as ``.logits``, or as the only [B, C] of a tuple.
        position: where in logits [B, N, V] the scores are, one for all or [B]; negative ones count
            from the last token that is no padding.
        learned: names of parameters that are sources as well, such as the object queries of DETR.
        largest: bytes; the recording breaks off (TooLarge) at the first tensor in a CPU's memory
            that has more.

    >>> import relprop, timm, torch
    >>> trace = relprop.record(timm.create_model("test_vit"), torch.rand(1, 3, 160, 160))
    >>> trace.depth, trace.grid, trace.attention[0].shape
    (6, (10, 10), torch.Size([1, 2, 101, 101]))
    """
    return Trace(*forward(model, inputs, output, position, learned, largest))
