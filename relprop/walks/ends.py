"""Where the tokens of each source begin: there relevance is read, and weights end."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from relprop.errors import UnsupportedModel
from relprop.recording.record import Source
from relprop.recording.run import walking
from relprop.recording.tags import tag
from relprop.rules.weights import Weights
from relprop.walks.arrival import check_residuals
from relprop.walks.backward import Backward
from relprop.walks.places import Moves, Places, by_sample, places_of
from relprop.walks.starts import over_channels

BySource = dict[str, Tensor]


class Ends:
    """Sources of a recorded model by name, and what arrives at them."""

    def __init__(self, backward: Backward) -> None:
        self.backward, self.recording = backward, backward.recording
        self.sources = backward.recording.sources
        self._places: dict[str, Places | UnsupportedModel | None] = {}

    def places_of(self, name: str) -> Places | None:
        """Where the tokens of a source lie; None where nobody knows what its tokens are."""
        if name not in self._places:
            try:
                with walking(self.backward.logits.device), torch.device("cpu"):
                    with self.recording.walk(Moves()):
                        self._places[name] = places_of(self.sources[name], len(self.sources) > 1)
            except UnsupportedModel as why:  # of a graph that may be freed when it is asked for
                self._places[name] = why
        if isinstance(found := self._places[name], UnsupportedModel):
            raise found
        return found

    # ------------------------------------------------------------------- where relevance is read

    def given(self, name: str) -> Tensor:
        """The source with the constants that are added to it, such as positions of words.

        Of a sequence whose entries are mixed first it is what the first layer takes.
        """
        source, passes = self.sources[name], self.backward.passes
        for x in reversed(source.sums):
            if tag(x).form == 1 and source.tensor.ndim < 4 and passes(source, x):
                return x
        if source.is_text or len(source.embeddings) != 1 or source.tensor.ndim > 3:
            return source.tensor
        (embedding,) = source.embeddings
        as_picture = embedding.input.ndim == 4 and source.tensor.ndim == 2
        if not as_picture and (embedding.kernel or tag(embedding.input).form == 1):
            return source.tensor
        return embedding.input if passes(source, embedding.input) else source.tensor

    def words(self, name: str) -> Tensor:
        """:meth:`given`, but of a text the embeddings of its words alone."""
        source = self.sources[name]
        return source.tensor if source.is_text else self.given(name)

    def embedded(self, name: str) -> Tensor:
        """Token and position embedding of a source: what enters its first block.

        Where there are no positions, what the first layer puts out; the source itself of a model
        without tokens, or of a vector whose numbers are mixed in each of them.
        """
        source = self.sources[name]
        if not source.is_text and (not self.recording.maps or self._is_mixed(name)):
            return source.tensor
        for x in reversed(source.sums):
            if self.backward.passes(source, x):
                return x
        return self.tensors[name]

    def is_embedded_as_given(self, name: str) -> bool:
        """Whether :meth:`embedded` is the source itself."""
        return self.embedded(name) is self.sources[name].tensor

    def _is_mixed(self, name: str) -> bool:
        """Whether a source is a vector [B, N] whose numbers the first layer takes all at once."""
        if self.sources[name].is_text or self.sources[name].tensor.ndim > 2:
            return False
        with contextlib.suppress(UnsupportedModel):
            places = self.places_of(name)
            return places is not None and places.is_whole
        return False

    # -------------------------------------------------------------------------- where weights end

    @functools.cached_property
    def tensors(self) -> BySource:
        """What the first layer of each source puts out, or the source."""
        return {name: self._end(name, source) for name, source in self.sources.items()}

    def _end(self, name: str, source: Source) -> Tensor:
        if source.is_text or len(source.embeddings) != 1 or not self.recording.maps:
            return source.tensor
        (embedding,) = source.embeddings
        if embedding.kernel is None and source.tensor.ndim < 4:
            return self.given(name)
        passed = self.backward.passes(source, embedding.output)
        return embedding.output if passed else source.tensor

    def transported(
        self, outputs: Sequence[Tensor | GradientEdge], weights: Sequence[Tensor]
    ) -> BySource:
        """Weights of tensors, at the tokens of the sources [B, count]; attention is left out.

        Raises:
            UnsupportedModel: tokens are the output of attention without a residual.
        """
        ends = list(self.tensors.values())
        check_residuals(self.backward, outputs, weights, ends)
        found = self.backward.pull(outputs, weights, ends, Weights())
        return self.summed(dict(zip(self.tensors, found, strict=True)))

    def summed(self, found: Mapping[str, Tensor]) -> BySource:
        """Weights in the shapes of the ends, as those of tokens [B, count] or pixels [B, H, W]."""
        weights = {}
        for name, w in found.items():
            source = self.sources[name]
            if self._is_mixed(name):
                raise UnsupportedModel(
                    f"the first layer mixes all numbers of a vector {list(source.tensor.shape)}: "
                    "the weight of tokens does not tell them apart; accepted: attnlrp, cp_lrp, lrp"
                )
            if all(self.tensors[name] is not x.output for x in source.embeddings):
                weights[name] = self.of_source(name, w)
            elif w.ndim > 2 and source.embeddings[0].kernel is not None:
                weights[name] = w.sum(dim=1).flatten(1)
            else:
                tokens = next(by_sample(w, self.recording.batch_size))
                weights[name] = tokens.sum(dim=-1)
        return weights

    def of_source(self, name: str, relevance: Tensor) -> Tensor:
        """Relevance of a source by pixels, [B, H, W], or by tokens, [B, count]."""
        source = self.sources[name]
        if not source.is_text and len(source.embeddings) == 1:
            mixed_first = [] if source.tensor.ndim > 4 else [UnsupportedModel]
            with contextlib.suppress(*mixed_first):  # of pixels [B, C, H, W]
                if (places := self.places_of(name)) is not None:
                    return places.of_source(relevance)
        if source.is_text or relevance.ndim < 4:
            return relevance.sum(dim=-1) if relevance.ndim > 2 else relevance
        return relevance.sum(dim=1)  # [B, C, H, W]

    def by_tokens(self, name: str, relevance: Tensor) -> Tensor:
        """Relevance of :meth:`embedded`, by tokens [B, N] or pixels [B, H, W]."""
        if self.is_embedded_as_given(name):
            return self.of_source(name, relevance)
        return relevance.sum(dim=tag(self.embedded(name)).channels)

    def followed(self, tensors: Sequence[Tensor], relevance: Sequence[Tensor]) -> BySource:
        """What tokens of ``tensors`` have, at those of the input that they are made of."""
        pairs = zip(tensors, relevance, strict=True)
        spread = [over_channels(x, r.sum(dim=tag(x).channels)) for x, r in pairs]
        return self.transported(tensors, spread)
