"""A recorded forward pass, and what methods may ask it for."""

from __future__ import annotations

import contextlib
import copy
import functools
import threading
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from relprop.bimodal import Bimodal, beginning, unknown_tokens
from relprop.errors import UnsupportedModel
from relprop.layout import check_samples_apart, passes, prefix_of
from relprop.places import Moves, Places, by_sample, places_of
from relprop.products import Product, Stopping, in_shape, shares, starts_of, walk_product
from relprop.recording.graph import Corrected, Relevance, Walk
from relprop.recording.record import AttentionMap, Recording, Source, Stream
from relprop.recording.run import forward, walking
from relprop.recording.tags import State, Tag, tag
from relprop.rules import Corrections, RuleSet, rule_set
from relprop.rules.weights import Weights, to_values

DEFAULT_EPS = 1e-9


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
        self._logits, self._recording, self.mask = logits, recording, mask
        # If True, a backward pass marked ``last`` frees the graph as it goes, so that its memory is
        # reused. A pass after it is autograd's RuntimeError.
        self.single_use = False
        self._walking = threading.RLock()  # a recording takes one backward pass at a time
        self._against: Tensor | None = None
        self._places: dict[str, Places | UnsupportedModel | None] = {}

    # ---------------------------------------------------------------------- what was recorded

    @property
    def logits(self) -> Tensor:
        return self._logits.detach()

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

    # -------------------------------------------------------------------------------- places

    def places_of(self, name: str) -> Places | None:
        """Where the tokens of a source lie; None where nobody knows what its tokens are."""
        if name not in self._places:
            source, several = self._recording.sources[name], len(self.sources) > 1
            try:
                with walking(self._logits.device), torch.device("cpu"):
                    with self._recording.walk(Moves()):
                        self._places[name] = places_of(source, several)
            except UnsupportedModel as why:  # of a graph that may be freed when it is asked for
                self._places[name] = why
        if isinstance(found := self._places[name], UnsupportedModel):
            raise found
        return found

    @property
    def places(self) -> Places:
        """Those of the only source."""
        places = self.places_of(self._only_source())
        if places is not None:
            return places
        source = self._recording.sources[self._only_source()].tensor
        return Places(self.tokens, channels=-1 if source.ndim > 2 else None)

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the patches of the only source, None where it is no picture."""
        sides = self.places.sides
        return None if sides is None else (sides[0].count, sides[1].count)

    @property
    def tokens(self) -> int:
        """Tokens of the last attention map, those that are no part of the input among them."""
        return self._maps(0)[-1].tensor.shape[-1]

    @functools.cached_property
    def prefix(self) -> int:
        """Tokens of a block before those of the input: class token, registers, ...

        Raises:
            UnsupportedModel: the tokens of the last block are not those of the input in its order.
        """
        name, last = self._only_source(), self._maps(0)[-1]
        what = f"{self.places.count} tokens of the input"
        if self.grid is not None:
            what = f"{self.grid[0]} x {self.grid[1]} patches, row by row,"

        def transport(tokens: Tensor) -> Tensor:
            if last.values is None:
                return torch.zeros(self.places.count)
            edge, shape = last.values
            columns = tokens.to(self._logits).expand(self._recording.batch_size, -1)
            weights = to_values(last.products[0][2], columns, last.products[0][1], shape)
            return self._at_ends(self._transported([edge], [weights]))[name][0].cpu()

        is_picture = self.grid is not None
        return prefix_of(self.places.count, self.tokens, is_picture, transport, what)

    @functools.cached_property
    def valid(self) -> Tensor | None:
        """False on padding, [B, N], of the tokens of a block; None without a mask of them.

        Tokens of the model's own are no padding. Other masks, such as [N, N], say which token may
        attend to which. Where there are as many samples as tokens the attention tells: nothing
        attends to padding.
        """
        valid = self.mask
        if valid is None or not self._recording.maps or len(self.sources) > 1:
            return None
        is_square = valid.shape[0] == valid.shape[1]
        if valid.shape[1] != self.tokens and valid.shape[1] == self.places.count:
            after = self.tokens - self.prefix - self.places.count
            valid = F.pad(valid, (self.prefix, after), value=True)
        if valid.shape != (self._recording.batch_size, self.tokens):
            return None
        first = self._recording.maps[0]
        attended = first.canonical(first.tensor.detach(), len(valid)).flatten(1, -2).sum(dim=1)
        return None if is_square and bool(attended[~valid].any()) else valid

    # ------------------------------------------------------------------------ backward passes

    def gradient(
        self, target: Tensor, start_layer: int = 0, *, last: bool = False
    ) -> tuple[Tensor, ...]:
        """G^b = d y_t / d A^b of maps ``start_layer`` and up, [B, H, n, m]; ``target`` [B].

        ``last``: no backward pass follows; of a recording of a single use it frees the graph.
        """
        maps = self._maps(start_layer)
        found = self._pull(*self._top(target), [x.tensor for x in maps], None, last)
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
    ) -> Tensor | dict[str, Tensor]:
        """Relevance of the pixels [B, C, H, W], of the embeddings [B, N, D] or of other numbers.

        Of a text it is of word and position embedding together. By name where there are several
        sources. ``last`` as in :meth:`gradient`.
        """
        tensors = [self._given(source) for source in self._recording.sources.values()]
        found = self._read(tensors, target, rules, eps, last)
        return self.by_source(dict(zip(self.sources, found, strict=True)))

    def input_relevance(
        self,
        target: Tensor,
        rules: str | RuleSet = "attnlrp",
        eps: float = DEFAULT_EPS,
        *,
        last: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """As :meth:`source_relevance`, but of the word embeddings of a text alone."""
        sources = self._recording.sources.values()
        tensors = [source.tensor if source.is_text else self._given(source) for source in sources]
        found = self._read(tensors, target, rules, eps, last)
        return self.by_source(dict(zip(self.sources, found, strict=True)))

    def token_relevance(
        self,
        target: Tensor,
        rules: str | RuleSet = "attnlrp",
        eps: float = DEFAULT_EPS,
        *,
        last: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Relevance of token and position embedding, which enter the first block: [B, N].

        Of all tokens, those of the model's own among them. For BERT it is the sum before its
        layer norm. By name where there are several sources.
        """
        tensors = [self._embedded(name) for name in self.sources]
        found = self._read(tensors, target, rules, eps, last)
        sums = [r.sum(dim=_channels(x)) for x, r in zip(tensors, found, strict=True)]
        return self.by_source(dict(zip(self.sources, sums, strict=True)))

    def not_finite(
        self, target: Tensor, rules: str | RuleSet = "paper", eps: float = DEFAULT_EPS
    ) -> str | None:
        """Where logits, relevance or gradient are first not finite; None if they are everywhere.

        It takes backward passes that look at every value: for when a map has turned out not to be.
        """
        if not self.logits.isfinite().all():
            return "the forward pass: the logits are not finite"
        walk = self._ruled(rules, eps)
        culprits: list[str] = []
        walk.culprits = culprits
        tensors = [x.tensor for x in self._recording.maps] or [self._embedded(self.sources[0])]
        self._pull(*self._top(target), tensors, walk)
        if culprits:
            return f"the relevance rule of {culprits[0]}"
        finite = all(g.isfinite().all() for g in self._pull(*self._top(target), tensors, None))
        return None if finite else "the gradient of the attention"

    def readout(
        self, target: Tensor, rules: str | RuleSet = "paper", eps: float = DEFAULT_EPS
    ) -> Tensor:
        """The share of the output's relevance that each token of the last block holds, [B, N].

        Rows of a map are weighted by it. One-hot at the class token where the head reads that
        alone, the two halves of a distilled model, spread out where tokens are averaged. Costs no
        more than the head: the walk stops at the last block's output.

        Raises:
            UnsupportedModel: the head reads more than the tokens of the last block.
        """
        starts = self._starts
        lowest = min(start.tag.number for start in starts)
        below = [x.tensor for x in self._recording.cuts if x.tag.number <= lowest]
        streams = [x for x in below if x.ndim == 3]
        if not streams or tag(streams[-1]).depth < self.depth:
            raise UnsupportedModel(
                f"the head reads tokens at {len(starts)} places; accepted: those of the last block "
                "alone; or a method that follows tokens, such as transformer_attribution"
            )
        held = self._shares(target, rule_set(rules), eps)
        if streams[-1] is starts[0].tensor:
            return held[0]
        weights = [in_shape(start, x) for start, x in zip(starts, held, strict=True)]
        (found,) = self._pull([x.tensor for x in starts], weights, streams[-1:], Weights())
        return found.sum(dim=-1)

    # ----------------------------------------------------------------- weights of the tokens

    def multiplied(
        self, product: Product, target: Tensor, rules: RuleSet, eps: float
    ) -> Tensor | dict[str, Tensor]:
        """What the tokens of the input weigh [B, count] in a product of attention maps.

        By name where there are several sources. It is the last backward pass.
        """
        if any(x.again for x in self._recording.maps):
            raise UnsupportedModel(
                "an attention map is used in a later block again, and maps are multiplied block by "
                "block; accepted: a map for each block; or the methods attnlrp and lrp"
            )
        self._check_keys()
        held = self._shares(target, rules, eps)
        weights = [in_shape(start, x) for start, x in zip(self._starts, held, strict=True)]
        ends = {name: (x, tag(x).number) for name, (x, _) in self._ends.items()}
        at = ([start.tensor for start in self._starts], weights)
        walk = self._ruled(rules, eps) if product.relevance else None
        found = walk_product(
            self._recording, product, self._pull, self._top(target), at, ends, walk
        )
        return self.by_source(self._at_ends(found))

    def gathered(self, target: Tensor, rules: RuleSet, eps: float) -> Tensor | dict[str, Tensor]:
        """What the tokens that the head reads have taken of the input's [B, count], by source.

        By the published rule for several sets of tokens (:mod:`relprop.bimodal`).
        """
        maps, batch = self._maps(0), self._recording.batch_size
        if any(
            x.tensor.ndim not in (3, 4) or x.canonical(x.tensor, batch).shape[0] != batch
            for x in maps
        ):
            raise UnsupportedModel(
                "attention is not between whole sets of tokens, [batch, heads, tokens, tokens]; "
                "accepted: a method that follows tokens, such as generic_attention"
            )
        A, G = self.attention, self.gradient(target)
        factors = [(a * g).relu().mean(dim=1) for a, g in zip(A, G, strict=True)]
        first = {x.key: x for x in reversed(maps) if x.key is not None and x.key.is_first}
        sizes = {state: x.tensor.shape[x.order[-1]] for state, x in first.items()}
        rule = Bimodal(factors, [x.key for x in maps], sizes)
        found: dict[State, Tensor] = {}
        for start, w in zip(self._starts, self._shares(target, rules, eps), strict=True):
            if start.tag.state is None:
                raise unknown_tokens()
            own = beginning(start.tag.state)
            for q, R in rule.of(start.tag.state).items():
                if q is own and rule.crosses(start.tag.state):  # as published
                    R = R * (1 - torch.eye(R.shape[-1]).to(R))
                found[q] = found.get(q, 0) + torch.einsum("bn,bnm->bm", w, R)
        edges, weights, constant = [], [], {}
        for state, x in first.items():
            if x.values is None:  # the tokens of a source, to which nothing leads from V
                constant[state.home[0]] = found[state]
                continue
            edges.append(x.values[0])
            weights.append(to_values(x.products[0][2], found[state], x.products[0][1], x.values[1]))
        return self.by_source(self._at_ends(self._transported(edges, weights)) | constant)

    def transported(self, tensors: Sequence[Tensor], tokens: Sequence[Tensor]) -> dict[str, Tensor]:
        """What tokens [B, ...] of ``tensors`` [B, ..., D] have, at those of the input, [B, count].

        Attention is left out: each token is followed to what it has been made of.
        """
        spread = [
            (t.unsqueeze(_channels(x)) / x.shape[_channels(x)]).expand_as(x)
            for x, t in zip(tensors, tokens, strict=True)
        ]
        return self._at_ends(self._transported(tensors, spread))

    def input_tokens(self, target: Tensor, rules: RuleSet, eps: float) -> dict[str, Tensor]:
        """:meth:`token_relevance` of the input's tokens alone, [B, count], by source."""
        tensors = {name: self._embedded(name) for name in self.sources}
        # What is freed lies above the tokens.
        found = self._read(list(tensors.values()), target, rules, eps, last=True)
        sums = [r.sum(dim=_channels(x)) for x, r in zip(tensors.values(), found, strict=True)]
        return self.transported(list(tensors.values()), sums)

    def streamed(
        self, streams: Sequence[Tensor], target: Tensor, rules: RuleSet, eps: float
    ) -> dict[str, Tensor]:
        """Relevance of the tokens of streams [B, N, D], summed at those of the input."""
        found = self._read(list(streams), target, rules, eps)
        return self.transported(streams, [r.sum(dim=-1) for r in found])

    def of_source(self, name: str, relevance: Tensor) -> Tensor:
        """Relevance of a source by pixels, [B, H, W], or by tokens, [B, count]."""
        source = self._recording.sources[name]
        if not source.is_text and len(source.embeddings) == 1:
            with contextlib.suppress(UnsupportedModel):  # of pixels that are mixed first
                if (places := self.places_of(name)) is not None:
                    return places.of_source(relevance)
        if source.is_text or relevance.ndim < 4:
            return relevance.sum(dim=-1) if relevance.ndim > 2 else relevance
        return relevance.sum(dim=1)  # [B, C, H, W]

    def summed(self, found: Tensor | dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
        """Relevance of the sources by pixels, [B, H, W], or by tokens, [B, count]."""
        if isinstance(found, Tensor):
            return self.of_source(self.sources[0], found)
        return {name: self.of_source(name, x) for name, x in found.items()}

    def by_source(self, found: dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
        """What was found of the only source, or of several by their names."""
        if len(self.sources) > 1:
            return {name: found[name] for name in self.sources}
        return found[self.sources[0]]

    @functools.cached_property
    def hidden(self) -> tuple[Tensor, ...]:
        """The stream before the first block, if there is one source, and after each, [B, N, D].

        Raises:
            UnsupportedModel: the model is not one chain of blocks.
        """
        cuts, maps = self._recording.cuts, self._maps(0)
        before = [] if len(self.sources) > 1 else [self._embedded(self.sources[0])]
        after = []
        ends = [*(x.number for x in maps[1:]), self._recording.count]
        for block, (x, end) in enumerate(zip(maps, ends, strict=True)):
            below = [s for s in cuts if s.tag.depth == block + 1 and s.tag.number < end]
            if x.depth != block or not below:
                raise UnsupportedModel(
                    "the model is not one chain of blocks; accepted: blocks each of which takes "
                    "what the one before has made; or a method that does without, such as attnlrp"
                )
            after.append(below[-1].tensor)
        return (*before, *after)

    @property
    def last_maps(self) -> frozenset[int]:
        """Numbers of the maps that the tokens which the head reads took up last."""
        found: set[int] = set()
        for start in self._starts:
            found.update(start.maps if start.product is not None else _taken(start.tag))
        return frozenset(found)

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

    def check_start_layer(self, start_layer: int) -> None:
        if not 0 <= start_layer < max(1, self.depth):
            raise ValueError(f"start_layer is {start_layer}; accepted: 0 to {self.depth - 1}")

    def _maps(self, start_layer: int) -> list[AttentionMap]:
        self.check_start_layer(start_layer)
        assert self._checked
        return self._recording.maps[start_layer:]

    @functools.cached_property
    def _checked(self) -> bool:
        """True; raises UnsupportedModel where maps are not to be read sample by sample."""
        maps, batch = self._recording.maps, self._recording.batch_size
        if not maps:
            raise UnsupportedModel(
                "no attention map was seen between the input and the logits: the model has no "
                "attention in torch functions (is it scripted?); accepted: a method that needs "
                "none, such as attnlrp and lrp"
            )
        for x in maps:
            x.check(batch)
        unclear = [x.tensor for x in maps[-1:] if x.tensor.ndim == 3 and len(x.tensor) > batch]
        starts = [start.tensor for start in starts_of(self._recording, self._logits)]
        for read in starts:
            if read.shape[0] != batch:
                raise UnsupportedModel(
                    f"the head reads tokens of shape {list(read.shape)} for a batch of {batch}; "
                    "accepted: batch first, [batch, tokens, channels]"
                )
        unclear += [read for read in starts if read.shape[0] == read.shape[1]]
        if batch > 1 and unclear:
            with walking(self._logits.device), self._walking:
                check_samples_apart(unclear, self._logits)
        return True

    def _check_keys(self) -> None:
        """Raises UnsupportedModel where attention is between channels.

        A channel has weight of all tokens, whichever channel it is. Where a sum has as many tokens
        as its attention map, that is known without a walk.
        """
        streams = [x for x in self._recording.streams.values() if x.product is None]
        for number, x in enumerate(self._recording.maps):
            *_, n, m = (x.tensor.shape[i] for i in x.order)
            taking = next((s.tensor for s in streams if number in s.maps), None)
            below = [s.tensor for s in streams if s.tag.number < x.number]
            if m == 1 or not below or taking is None or x.values is None:
                continue
            edge, shape = x.values
            if n in taking.shape[1:-1] and list(shape[1:]).count(n) < 2:
                continue
            product, output = x.products[0][2], x.products[0][1]
            *batch, _, _ = x.canonical(x.tensor, self._recording.batch_size)[:, 0].shape
            first, last = torch.eye(m).to(self._logits)[[0, -1]]
            both = [to_values(product, k.expand(*batch, m), output, shape) for k in (first, last)]
            seen = [self._pull([edge], [w], below[-1:], Weights())[0] for w in both]
            if seen[0].any() and torch.allclose(seen[0], seen[1]):
                raise UnsupportedModel(
                    f"attention map {number}, {list(x.tensor.shape)}, leads from channels to "
                    "channels, and weights are of tokens; accepted: attention between tokens; or "
                    "the methods attnlrp and lrp"
                )

    def _only_source(self) -> str:
        if len(self.sources) > 1:
            raise UnsupportedModel(
                f"the model has {len(self.sources)} sources ({', '.join(self.sources)}), and this "
                "is of one; accepted: a model of one input; or a method that has a map for each, "
                "such as transformer_attribution and attnlrp"
            )
        return self.sources[0]

    @functools.cached_property
    def _starts(self) -> list[Stream]:
        assert self._checked
        return starts_of(self._recording, self._logits)

    @functools.cached_property
    def _ends(self) -> dict[str, tuple[Tensor, bool]]:
        """Where weights end, by source, and whether it is what the first layer puts out."""
        return {name: self._end(source) for name, source in self._recording.sources.items()}

    def _given(self, source: Source) -> Tensor:
        """The source with the constants that are added to it, such as positions of words.

        Of a sequence whose entries are mixed first it is what the first layer takes.
        """
        for x in reversed(source.sums):
            if tag(x).form == 1 and source.tensor.ndim < 4 and self._passes(source, x):
                return x
        if source.is_text or len(source.embeddings) != 1 or source.tensor.ndim > 3:
            return source.tensor
        (embedding,) = source.embeddings
        as_picture = embedding.input.ndim == 4 and source.tensor.ndim == 2
        if not as_picture and (embedding.kernel or tag(embedding.input).form == 1):
            return source.tensor
        return embedding.input if self._passes(source, embedding.input) else source.tensor

    def _end(self, source: Source) -> tuple[Tensor, bool]:
        if source.is_text or len(source.embeddings) != 1 or not self._recording.maps:
            return source.tensor, False
        (embedding,) = source.embeddings
        if embedding.kernel is None and source.tensor.ndim < 4:
            return self._given(source), False
        passed = self._passes(source, embedding.output)
        return (embedding.output, True) if passed else (source.tensor, False)

    def _passes(self, source: Source, x: Tensor) -> bool:
        """Whether all that the logits take of a source goes through ``x``."""
        leaf = get_gradient_edge(source.tensor).node
        return passes(get_gradient_edge(self._logits).node, leaf, [get_gradient_edge(x).node])

    def _at_ends(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights in the shapes of the ends, as those of tokens [B, count] or pixels [B, H, W]."""
        weights = {}
        for name, w in found.items():
            if not self._ends[name][1]:
                weights[name] = self.of_source(name, w)
            elif w.ndim > 2 and self._recording.sources[name].embeddings[0].kernel is not None:
                weights[name] = w.sum(dim=1).flatten(1)
            else:
                tokens = next(by_sample(w, self._recording.batch_size))
                weights[name] = tokens.sum(dim=-1)
        return weights

    def _transported(self, outputs, weights) -> dict[str, Tensor]:
        ends = {name: x for name, (x, _) in self._ends.items()}
        found = self._pull(outputs, weights, list(ends.values()), Weights())
        return dict(zip(ends, found, strict=True))

    def _embedded(self, name: str) -> Tensor:
        """Token and position embedding of a source: what enters its first block.

        Where there are no positions, what the first layer puts out; the source itself of a model
        without tokens.
        """
        source = self._recording.sources[name]
        if not self._recording.maps and not source.is_text:
            return source.tensor
        for x in reversed(source.sums):
            if self._passes(source, x):
                return x
        return self._ends[name][0]

    def _shares(self, target: Tensor, rules: RuleSet, eps: float) -> list[Tensor]:
        """What the tokens that the head reads hold of the output's relevance."""
        numbers = frozenset(start.tag.number for start in self._starts)
        walk = self._ruled(rules, eps)
        tensors = [start.tensor for start in self._starts]
        found = self._pull(*self._top(target), tensors, Stopping(walk, numbers))
        if isinstance(walk, Corrected):
            found = tuple(x.detach() * g for x, g in zip(tensors, found, strict=True))
        return shares(self._starts, found, self._recording.batch_size)

    def _top(self, target: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The logits, and what a backward pass starts with: y_t, or y_t less another."""
        classes = torch.arange(self._logits.shape[1], device=target.device)
        start = (classes == target[:, None]).to(self._logits.dtype)
        if self._against is not None:
            start = start - (classes == self._against[:, None]).to(start)
        return [self._logits], [start]

    def _ruled(self, rules: str | RuleSet, eps: float) -> Relevance | Corrected:
        chosen, running = rule_set(rules), self._recording.running
        if isinstance(chosen, Corrections):
            return Corrected(chosen.rules, eps, running)
        return Relevance(chosen, eps, self._recording.batch_size, running)

    def _read(self, tensors, target, rules, eps, last=False) -> tuple[Tensor, ...]:
        """Relevance of tensors: what arrives there, times the tensor where that is a gradient."""
        walk = self._ruled(rules, eps)
        found = self._pull(*self._top(target), tensors, walk, last)
        if not isinstance(walk, Corrected):
            return found
        return tuple(x.detach() * g for x, g in zip(tensors, found, strict=True))

    def _pull(
        self,
        outputs: Sequence[Tensor | GradientEdge],
        arriving: Sequence[Tensor],
        inputs: Sequence[Tensor | GradientEdge],
        walk: Walk | None,
        last: bool = False,
        graph: bool = False,
    ) -> tuple[Tensor, ...]:
        """One backward pass of a walk; None is the gradient."""
        keep = graph or not (last and self.single_use)
        if not keep:
            self._settle()
        # A rule may need a graph of its own.
        with self._walking, walking(self._logits.device), self._recording.walk(walk):
            found = torch.autograd.grad(
                outputs,  # type: ignore[arg-type]
                inputs,  # type: ignore[arg-type]
                arriving,
                retain_graph=keep,
                create_graph=graph,
                allow_unused=True,
            )
        return tuple(
            torch.zeros_like(x) if f is None else f for x, f in zip(inputs, found, strict=True)
        )

    def _settle(self) -> None:
        """Find out, before the graph is freed, what has to be known of it afterwards."""
        for name in self.sources:
            with contextlib.suppress(UnsupportedModel):
                self.places_of(name)
        if self._recording.maps:
            with contextlib.suppress(UnsupportedModel):
                _ = self._checked, self.valid is not None and self._rows

    def _finished(self, x: Tensor, map: AttentionMap) -> Tensor:
        """[B, H, n, m], and 0 on padding.

        What a token of padding attends to is kept where the head reads that token.
        """
        x = map.canonical(x, self._recording.batch_size)
        if self.valid is None or x.shape[-2:] != (self.tokens, self.tokens):
            return x
        return x * (self._rows[:, None, :, None] & self.valid[:, None, None, :])

    @functools.cached_property
    def _rows(self) -> Tensor:
        """The tokens that are no padding, or that the logits depend on, bool [B, N]."""
        valid = self.valid
        assert valid is not None
        if len(self._starts) != 1 or self._starts[0].tensor.shape[:2] != valid.shape:
            return valid
        # Other weights for each class: of probabilities the sum is a constant.
        weights = torch.linspace(1, 2, self._logits.shape[1]).to(self._logits)
        top = [self._logits], [weights.expand_as(self._logits)]
        (found,) = self._pull(*top, [self._starts[0].tensor], None)
        return valid | (found != 0).any(dim=-1)


def _taken(known: Tag) -> tuple[int, ...]:
    """Maps that tokens took up last, and that they have pending."""
    state = known.state
    if state is None or known.pending:
        return tuple(known.pending)
    return state.maps + tuple(i for part in state.parts for i in part.maps)


def _channels(x: Tensor) -> int:
    """The dimension of a token's channels."""
    return tag(x).channels


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
