"""Backward passes through a recorded forward pass: what arrives at maps, sources and tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from relprop.errors import UnsupportedModel
from relprop.recording.graph import Corrected, Relevance
from relprop.recording.record import AttentionMap, Recording
from relprop.recording.tags import on_path
from relprop.rules import Corrections, Guided, RuleSet, rule_set
from relprop.rules.sets import shares_out
from relprop.walks.apart import check_apart
from relprop.walks.backward import Backward, Differentiable, Top
from relprop.walks.ends import BySource, Ends
from relprop.walks.guided import begin, top_of_probability
from relprop.walks.starts import Starts
from relprop.walks.tokens import Tokens

DEFAULT_EPS = 1e-9

Found = Tensor | BySource
"""What was found of the only source, or of several by their names."""


class Passes:
    """A recorded forward pass, and attention, gradient and relevance of each of its maps.

    Attributes:
        mask: the input's attention mask [B, N], None without.
        single_use: a backward pass marked ``last`` frees the graph as it goes, so that its memory
            is reused. A pass after it is a RuntimeError.
        differentiable: what of the maps has a graph to the parameters: ``False``, ``"attention"``
            or ``"exact"`` (:func:`relprop.record`).
    """

    def __init__(
        self,
        logits: Tensor,
        recording: Recording,
        mask: Tensor | None = None,
        differentiable: Differentiable = False,
    ) -> None:
        if not recording.sources:
            raise UnsupportedModel(
                "no embedding of the ids was seen; accepted: ids that go through "
                "torch.nn.Embedding or torch.nn.functional.embedding, or an input of floats"
            )
        if not on_path(logits):
            raise UnsupportedModel(
                "the logits do not depend on the input by torch functions (is the model scripted, "
                "or run under no_grad?)"
            )
        self._recording, self.mask = recording, mask
        self._backward = Backward(logits, recording, differentiable)
        self._ends = Ends(self._backward)
        self._tokens = Tokens(self._ends, mask)
        self._against: Tensor | None = None
        self.single_use = False

    @property
    def differentiable(self) -> Differentiable:
        return self._backward.differentiable

    @property
    def logits(self) -> Tensor:
        """Scores [B, C], without a graph."""
        return self._backward.logits.detach()

    @property
    def output(self) -> Tensor:
        """:attr:`logits`, of a differentiable recording with their graph: for a loss on them."""
        return self._backward.logits if self.differentiable else self.logits

    @property
    def attention(self) -> tuple[Tensor, ...]:
        """A^b of every map, [B, H, n, m]."""
        maps = self._recording.maps
        seen = [x.tensor if self.differentiable else x.tensor.detach() for x in maps]
        return tuple(self._finished(A, x) for A, x in zip(seen, maps, strict=True))

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
    def widest_nbytes(self) -> int:
        """Bytes of the largest tensor that was recorded, such as of the widest layer."""
        return self._recording.widest

    # ---------------------------------------------------------------------------- backward passes

    def gradient(
        self, target: Tensor, start_layer: int = 0, *, last: bool = False
    ) -> tuple[Tensor, ...]:
        """G^b = d y_t / d A^b of maps of depth ``start_layer`` and up, [B, H, n, m].

        ``target`` [B]. ``last``: no backward pass follows; of a recording of a single use it frees
        the graph.
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
        """R^b, the relevance of A^b for class ``target`` [B], of the maps of :meth:`gradient`.

        Of one class against another it is still of ``target`` alone by rules that share relevance
        out in each sample, such as the paper's: that of both is 0. ``last`` as in :meth:`gradient`.
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
        return self.by_source(self._of_sources(self._ends.given, target, rules, eps, last))

    def input_relevance(
        self,
        target: Tensor,
        rules: str | RuleSet = "attnlrp",
        eps: float = DEFAULT_EPS,
        *,
        last: bool = False,
    ) -> Found:
        """As :meth:`source_relevance`, but of the word embeddings of a text alone."""
        return self.by_source(self._of_sources(self._ends.words, target, rules, eps, last))

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
        found = self._of_sources(self._ends.embedded, target, rules, eps, last)
        return self.by_source({name: self._ends.by_tokens(name, r) for name, r in found.items()})

    def input_gradient(self, of: Tensor) -> Found:
        """d ``of`` / d source of each, in its shape; ``of`` is a number made of :attr:`output`.

        It has a graph where the recording is ``"exact"``.
        """
        tensors = [source.tensor for source in self._recording.sources.values()]
        found = self._backward.pull([of], [torch.ones_like(of)], tensors, None)
        return self.by_source(dict(zip(self.sources, found, strict=True)))

    def not_finite(
        self, target: Tensor, rules: str | RuleSet = "paper", eps: float = DEFAULT_EPS
    ) -> str | None:
        """Where logits, relevance or gradient are first not finite; None if they are everywhere.

        It takes backward passes that look at every value: for when a map has turned out not to be.
        """
        if not self.logits.isfinite().all():
            return "the forward pass: the logits are not finite"
        pull = self._backward.pull
        culprits: list[str] = []
        maps = [x.tensor for x in self._recording.maps]
        tensors = maps or [self._ends.embedded(self.sources[0])]
        top, walk = self._begin(target, rules, eps, tensors)
        walk.culprits = culprits
        pull(*top, tensors, walk)
        if culprits:
            return f"the relevance rule of {culprits[0]}"
        finite = all(g.isfinite().all() for g in pull(*self._top(target), tensors, None))
        return None if finite else "the gradient of the attention"

    # ------------------------------------------------------------------------------------- within

    def by_source(self, found: BySource) -> Found:
        """What was found of the only source, or of several by their names."""
        if len(self.sources) > 1:
            return {name: found[name] for name in self.sources}
        return found[self.sources[0]]

    def check_apart(self, target: Tensor, rules: str | RuleSet = "paper") -> None:
        """Raises UnsupportedModel where a sample's score depends on the input of another.

        Or its probability, where the rules begin with that.
        """
        check_apart(self._backward, self._top(target))
        if isinstance(rule_set(rules), Guided):
            top = top_of_probability(self._backward, target, self._against)
            check_apart(self._backward, top, "probabilities")

    def check_start_layer(self, start_layer: int) -> None:
        """Raises ValueError where no map counts, or none of one of several towers."""
        if start_layer:
            _check_depth(start_layer, Starts(self._backward).deepest)

    @property
    def _starts(self) -> Starts:
        return self._tokens.starts

    def _maps(self, start_layer: int) -> list[AttentionMap]:
        maps = self._tokens.maps
        _check_depth(start_layer, max((x.depth for x in maps), default=0))
        return [x for x in maps if x.depth >= start_layer]

    def _top(self, target: Tensor) -> Top:
        return self._backward.top(target, self._against)

    def _top_of(self, walk: Relevance | Corrected, target: Tensor) -> Top:
        """Where relevance begins: with y_t alone where that of y_t - y_against would be 0."""
        if isinstance(walk, Relevance) and shares_out(walk.rules, self.depth):
            return self._backward.top(target)
        return self._top(target)

    def _check_contrast(self, rules: str | RuleSet) -> None:
        """Raises UnsupportedModel where a map of relevance alone would not know of ``against``."""
        chosen = rule_set(rules)
        if self._against is None or isinstance(chosen, (Corrections, Guided)):
            return
        if shares_out(chosen, self.depth):
            raise UnsupportedModel(
                "relevance by these rules is shared out anew at each sum of two streams, so that "
                "that of one class against another is 0; accepted: no against=; a method with a "
                "gradient in its map, such as transformer_attribution; or the rules lrp, epsilon, "
                "attnlrp and cp_lrp"
            )

    def _read(self, tensors, target, rules, eps, last=False) -> tuple[Tensor, ...]:
        """Relevance of tensors."""
        free = self._frees(last)
        top, walk = self._begin(target, rules, eps, tensors)
        return self._backward.read(top, tensors, walk, free)

    def _begin(self, target, rules, eps, tensors) -> tuple[Top, Relevance | Corrected]:
        """Where relevance of tensors begins, with what, and the walk of a rule set."""
        chosen = rule_set(rules)
        if isinstance(chosen, Guided):
            return begin(self._backward, chosen, target, self._against, eps, tensors)
        walk = self._backward.ruled(chosen, eps)
        return self._top_of(walk, target), walk

    def _of_sources(self, place: Callable[[str], Tensor], target, rules, eps, last) -> BySource:
        """Relevance of the sources, each at its place."""
        self._check_contrast(rules)
        found = self._read([place(name) for name in self.sources], target, rules, eps, last)
        return dict(zip(self.sources, found, strict=True))

    def _frees(self, last: bool) -> bool:
        """Whether the next pass frees the graph. What has to be known of it is found out before."""
        if not (last and self.single_use) or self.differentiable:
            return False
        for name in self.sources:
            with contextlib.suppress(UnsupportedModel):
                self._ends.places_of(name)
        if self._recording.maps:
            with contextlib.suppress(UnsupportedModel):
                self._tokens.settle()
        return True

    def _finished(self, x: Tensor, map: AttentionMap) -> Tensor:
        """[B, H, n, m], and 0 on padding."""
        return self._tokens.without_padding(map.canonical(x, self._recording.batch_size), map)


def _check_depth(start_layer: int, deepest: int) -> None:
    if not 0 <= start_layer <= deepest:
        accepted = f"0 to {deepest}" if deepest else "0"
        raise ValueError(f"start_layer is {start_layer}; accepted: {accepted}")
