"""A recorded forward pass, and the states of tokens from block to block."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from relprop.errors import UnsupportedModel, described
from relprop.passes import Found, Passes
from relprop.recording.run import walking
from relprop.walks.blocks import Blocks, Of
from relprop.walks.starts import over_channels

LmHead = Callable[[Tensor], Tensor] | str | None


class States(Passes):
    """A recorded forward pass of one chain of blocks, and what each block makes of each token."""

    def states(self, of: Of = "block") -> tuple[Tensor, ...]:
        """What each block puts out, or its ``"attention"`` or ``"mlp"`` adds: [B, N, D] each.

        Blocks that end with a norm, as BERT's do, put out what that makes.

        Raises:
            UnsupportedModel: the model is not one chain of blocks that add to their tokens.
        """
        return tuple(self._backward.value(x) for x in self._blocks.states(of))

    def project(self, states: Tensor) -> Tensor:
        """Class logits [B, M, C] of states [B, M, D], by the model's own final norm and head.

        Each is what the model says where all tokens that its head reads are in that state (Vilas,
        Schaumloeffel, Roig 2023): E LN(h) of a ViT. Of the class token of the last block it is the
        model's logits; the two heads of a distilled model have their mean.

        Raises:
            UnsupportedModel: the head reads more than the last block, or states of other channels.
        """
        return self._backward.value(self._blocks.logits_of_each(states))

    def branch_gradient(self, arriving: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        """Gradient of each block's own logits to its own A^b, [B, H, N, N].

        The logits [B, C] are what the head makes of the block's attention branch alone.

        Args:
            arriving: makes of these what their gradient begins with, [B, C].

        Raises:
            UnsupportedModel: a class is explained against another, or blocks are of several sizes.
        """
        if self._against is not None:
            raise UnsupportedModel(
                "the decision of a block is the cross entropy of one class; accepted: no against="
            )
        found = []
        for x, state in zip(self._maps(0), self._blocks.states("attention"), strict=True):
            z = self._blocks.logits(state)
            start = arriving(self._backward.value(z))
            (g,) = self._backward.pull([z], [start], [x.tensor], None)
            found.append(self._finished(g, x))
        return tuple(found)

    def entering(self, target: Tensor, block: int) -> tuple[Tensor, Tensor]:
        """What enters a block, and the gradient of the class to it, [B, N, D] each."""
        x = self._blocks.entering[block]
        (g,) = self._backward.pull(*self._top(target), [x], None)
        return self._backward.value(x), g

    def of_entering(self, relevance: Sequence[Tensor], start_layer: int = 0) -> Found:
        """What tokens [B, N] that enter blocks have, one a block, summed at those of the input."""
        tensors = self._blocks.entering[start_layer:]
        spread = [over_channels(x, r) for x, r in zip(tensors, relevance, strict=True)]
        return self.by_source(self._ends.transported(tensors, spread))

    def projected(self, target: Tensor, block: int) -> Found:
        """y_t of each token of the input in a block, less the mean of all classes.

        Less y_against where a class is explained against another.
        """
        z = self.project(self.states()[block])  # [B, N, C]

        def of(classes: Tensor) -> Tensor:
            return z.gather(2, classes[:, None, None].expand(-1, z.shape[1], 1))[..., 0]

        other = z.mean(dim=-1) if self._against is None else of(self._against)
        last = self._blocks.sums[block]
        spread = over_channels(last, of(target) - other)
        return self.by_source(self._ends.transported([last], [spread]))

    @functools.cached_property
    def words(self) -> tuple[Tensor, Tensor]:
        """Ids [B, N] of a text, -1 on padding, and the embedding of its vocabulary [V, D].

        Raises:
            UnsupportedModel: the only source is no text, or there are several.
        """
        source = self._recording.sources[self._tokens.only_source()]
        if source.words is None or source.table is None:
            raise UnsupportedModel(
                "states are decoded into words of a vocabulary, and the input is no text; "
                "accepted: ids [B, N] of tokens"
            )
        ids, mask = source.words, self.mask
        if mask is not None and mask.shape == ids.shape and self._tokens.valid is not None:
            ids = ids.masked_fill(~mask, -1)
        return ids, self._backward.value(source.table)

    def decoded(self, states: Tensor, lm_head: LmHead) -> Tensor:
        """Logits [B, N, V] of the vocabulary for states [B, N, D].

        By ``lm_head``; without one by the model's own, if its classes are the vocabulary; or else
        LN(h) E^T by the word embeddings E, LN without weights.
        """
        _, E = self.words
        if callable(lm_head):
            with walking(states.device):
                logits = lm_head(states)
            if not isinstance(logits, Tensor) or logits.shape != (*states.shape[:-1], len(E)):
                raise ValueError(
                    f"lm_head makes {described(logits)} of states {list(states.shape)}; accepted: "
                    f"logits {[*states.shape[:-1], len(E)]} of the vocabulary"
                )
            return logits
        if lm_head is not None:
            raise ValueError(
                f"lm_head is {described(lm_head)}; accepted: None, or a function from states "
                "[B, N, D] to logits [B, N, V] of the vocabulary"
            )
        if self.logits.shape[1] == len(E):
            return self.project(states)
        if E.shape[1] != states.shape[-1]:
            raise UnsupportedModel(
                f"word embeddings have {E.shape[1]} channels, and states {states.shape[-1]}, so "
                "that they do not decode them; accepted: lm_head=, a function from states "
                "[B, N, D] to logits [B, N, V] of the vocabulary"
            )
        return F.layer_norm(states, states.shape[-1:]) @ E.mT

    @functools.cached_property
    def _blocks(self) -> Blocks:
        return Blocks(self._backward, self._maps(0))
