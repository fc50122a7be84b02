"""A recorded forward pass, and what methods may ask it for."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from relprop.errors import UnsupportedModel, described
from relprop.passes import DEFAULT_EPS, Found
from relprop.recording.run import forward
from relprop.rules import RuleSet
from relprop.rules.weights import Weights, to_values
from relprop.states import States
from relprop.walks.arrival import check_arrival
from relprop.walks.backward import Differentiable
from relprop.walks.bimodal import gathered
from relprop.walks.ends import BySource
from relprop.walks.maps import (
    check_factors,
    check_keys,
    check_taken_up,
    check_whole,
    pooling_maps,
    streams_after,
)
from relprop.walks.places import Places
from relprop.walks.products import Product, walk_product


class Trace(States):
    """One recorded forward pass: ask it for as many classes and rule sets as you like.

    ``logits`` [B, C]; ``attention`` a map each, [B, H, n, m], in the order of the model. Maps are 0
    on padding. ``mask``: the input's attention mask [B, N], None without. The recorded graph lives
    as long as the trace, unless it is ``single_use``. Maps of the input's tokens are found here;
    states of blocks by :class:`~relprop.states.States`; gradient
    and relevance of single tensors by :class:`~relprop.passes.Passes`.
    """

    def versus(self, against: Tensor | None) -> Trace:
        """This trace, of which what is explained is y_target - y_against, ``against`` [B].

        Gradients are of the difference, and so is relevance by rules that are linear in what they
        begin with. By others, such as the paper's, that would be 0 (:func:`shares_out`): it is of
        y_target alone, in a map with such a gradient, and of relevance alone there is none.
        """
        trace = copy.copy(self)
        trace._against = against
        return trace

    # ------------------------------------------------------------------------------------- tokens

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
        """Tokens of the last attention map, those that are no part of the input among them.

        Maps between tokens of the model's own, such as learned queries, do not count.
        """
        return self._tokens.count

    @property
    def pools(self) -> bool:
        """Whether queries of the last attention map are the model's own, such as learned ones.

        Raises:
            UnsupportedModel: so are its keys.
        """
        last = self._tokens.maps[-1]
        if last is not self._tokens.last:
            raise UnsupportedModel(
                f"the last attention map, {list(last.tensor.shape)}, is between tokens of the "
                "model's own, which are not the input's; accepted: a method that follows tokens, "
                "such as transformer_attribution"
            )
        return not last.leads_from_input

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
        walk = self._backward.ruled(rules, eps)
        return self._starts.of_last_block(self._top_of(walk, target), walk)

    @functools.cached_property
    def hidden(self) -> tuple[Tensor, ...]:
        """The stream before the first block, if there is one source, and after each, [B, N, D].

        Raises:
            UnsupportedModel: the model is not one chain of blocks.
        """
        before = [] if len(self.sources) > 1 else [self._ends.embedded(self.sources[0])]
        return (*before, *streams_after(self._recording, self._maps(0)))

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

    # ----------------------------------------------------------------- maps of the input's tokens

    def multiplied(self, product: Product, target: Tensor, rules: RuleSet, eps: float) -> Found:
        """What the tokens of the input weigh, [B, count], in a product of attention maps.

        It is the last backward pass.
        """
        check_factors(self._recording, product)
        check_taken_up(self._starts)
        check_keys(self._backward)
        ends = self._ends.tensors
        check_arrival(self._backward, product, self._starts.tensors, ends)
        if product.relevance and not product.gradient:
            self._check_contrast(rules)
        walk = self._backward.ruled(rules, eps)
        tops = self._top(target), self._top_of(walk, target)
        at = (self._starts.tensors, self._starts.weights(tops[1], walk))
        free = self._frees(last=True)
        found = walk_product(self._backward, product, tops, at, ends, walk, free)
        return self.by_source(self._ends.summed(found))

    def pooled(self, target: Tensor, rules: RuleSet, eps: float) -> Found:
        """What the layers that pool, and that the head reads, attend to: E_h A, [B, count].

        Weights that are lost below them, where attention is mixed after its softmax, are made up
        for: of a token that is one key it is what the map has there.
        """
        chosen = pooling_maps(self._recording, self.last_maps)
        kept = self._kept(chosen)
        product = Product(lambda A, G, R: A.mean(dim=1), chosen=chosen, passing=True)
        found = self.multiplied(product, target, rules, eps)
        several = found if isinstance(found, dict) else {self.sources[0]: found}
        return self.by_source({name: w / kept.get(name, 1) for name, w in several.items()})

    def _kept(self, chosen: Collection[int]) -> BySource:
        """What arrives of a weight of 1 for each key of maps; empty where nothing is lost."""
        walk, edges, weights = Weights(passing=True), [], []
        for x in (self._recording.maps[i] for i in chosen):
            (edge, shape), (_, output, product) = x.values, x.products[0]  # type: ignore[misc]
            A = x.canonical(x.tensor.detach(), self._recording.batch_size)
            edges.append(edge)
            weights.append(to_values(product, torch.ones_like(A[:, 0, ..., 0, :]), output, shape))
        ends = self._ends
        found = self._backward.pull(edges, weights, list(ends.tensors.values()), walk)
        if not walk.lost:
            return {}
        kept = ends.summed(dict(zip(ends.tensors, found, strict=True)))
        return {name: x.masked_fill(x == 0, 1) for name, x in kept.items()}

    def gathered(self, target: Tensor, rules: RuleSet, eps: float) -> Found:
        """What the tokens that the head reads have taken of the input's, [B, count].

        By the published rule for several sets of tokens (:mod:`relprop.walks.bimodal`).
        """
        check_whole(self._recording)
        check_taken_up(self._starts)
        A, G = self.attention, self.gradient(target)
        factors = [(a * g).relu().mean(dim=1) for a, g in zip(A, G, strict=True)]
        walk = self._backward.ruled(rules, eps)
        held = self._starts.shares(self._top_of(walk, target), walk)
        return self.by_source(gathered(self._starts, self._ends, held, factors))

    def input_tokens(self, target: Tensor, rules: RuleSet, eps: float) -> Found:
        """:meth:`token_relevance` of the input's tokens alone, [B, count]."""
        ends = self._ends
        found = self._of_sources(ends.embedded, target, rules, eps, last=True)
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
        self._check_contrast(rules)
        found = self._read(streams, target, rules, eps)
        return self.by_source(self._ends.followed(streams, found))

    def summed(self, found: Found) -> Found:
        """Relevance of the sources by pixels, [B, H, W], or by tokens, [B, count]."""
        if isinstance(found, Tensor):
            return self._ends.of_source(self.sources[0], found)
        return {name: self._ends.of_source(name, x) for name, x in found.items()}


def record(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Tensor],
    *,
    output: Callable[[object], Tensor] | None = None,
    position: int | Tensor | None = None,
    learned: Sequence[str] = (),
    largest: int | None = None,
    differentiable: Differentiable = False,
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
        differentiable: what of the maps of this recording has a graph to the model's parameters,
            so that a loss on them trains it. ``False``: nothing. ``"attention"``: attention maps,
            while gradient and relevance are constants, as in "Optimizing Relevance Maps of Vision
            Transformers Improves Robustness" (Chefer, Schwartz, Wolf, NeurIPS 2022); of methods
            that have attention in their map. ``"exact"``: everything, by a second derivative. A
            recording serves one ``backward()``.

    >>> import relprop, timm, torch
    >>> trace = relprop.record(timm.create_model("test_vit"), torch.rand(1, 3, 160, 160))
    >>> trace.depth, trace.grid, trace.attention[0].shape
    (6, (10, 10), torch.Size([1, 2, 101, 101]))
    """
    if differentiable not in get_args(Differentiable):
        raise ValueError(
            f"differentiable is {described(differentiable)}; accepted: False, 'attention', 'exact'"
        )
    if differentiable and not any(x.requires_grad for x in model.parameters()):
        raise ValueError("differentiable: no parameter of the model requires grad; accepted: one")
    found = forward(model, inputs, output, position, learned, largest, bool(differentiable))
    return Trace(*found, differentiable)
