"""The published rule for several sets of tokens that attend to each other.

"Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers"
(Chefer, Gur, Wolf; ICCV 2021, section 3.2). R_sq [B, n_s, n_q] is how much the tokens of set s have
taken of those of q; C = E_h (A * G)^+ of each attention map. A set begins with R_ss = I.

- s attends to itself (eq. 6, 7): R_sq += C R_sq for every q, of before.
- s attends to q (eq. 10, 11): R_sq += hat(R_ss)^T C hat(R_qq), and R_ss += C R_qs.
- hat(R) = I + (R - I) / rowsum(R - I) (eq. 8, 9); a row that has gathered nothing stays one of I.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from relprop.errors import UnsupportedModel
from relprop.recording.tags import State
from relprop.rules.weights import to_values
from relprop.walks.ends import BySource, Ends
from relprop.walks.order import in_order
from relprop.walks.starts import Starts


def gathered(
    starts: Starts, ends: Ends, held: Sequence[Tensor], factors: Sequence[Tensor]
) -> BySource:
    """What the tokens that the head reads have taken of those of the sources, [B, count].

    Args:
        held: shares of the tokens that the head reads, [B, n].
        factors: C of each attention map, [B, n, m].
    """
    maps = ends.recording.maps
    if not all(x.leads_from_input for x in maps):
        raise unknown_tokens()
    first = {x.key: x for x in reversed(maps) if x.key is not None and x.key.is_first}
    held = in_order(starts, ends, held, first)
    sizes = {state: x.tensor.shape[x.order[-1]] for state, x in first.items()}
    rule = Bimodal(factors, [x.key for x in maps], sizes)
    found: dict[State, Tensor] = {}
    for start, w in zip(starts.streams, held, strict=True):
        state = start.tag.state
        if state is None:
            raise unknown_tokens()
        own = beginning(state)
        for q, R in rule.of(state).items():
            if q is own and rule.crosses(state):  # as published
                R = R * (1 - torch.eye(R.shape[-1]).to(R))
            found[q] = found.get(q, 0) + torch.einsum("bn,bnm->bm", w, R)
    edges, weights, of_sources = [], [], {}
    for state, x in first.items():
        if x.values is None:  # constants: keys are the tokens of a source themselves
            of_sources[state.home[0]] = found[state]
            continue
        _, output, product = x.products[0]
        edges.append(x.values[0])
        weights.append(to_values(product, found[state], output, x.values[1]))
    return ends.transported(edges, weights) | of_sources


Relevances = dict[State, Tensor]  # R_sq of one s by q, a set being the state that it begins with


@dataclass
class Bimodal:
    """R of the states of tokens, each built on the one before.

    Attributes:
        factors: C [B, n, m] by the number of the attention map.
        keys: by that number, the state of the tokens that are attended to.
        sizes: number of tokens of each set.

    Raises:
        UnsupportedModel: attention is to tokens that are no set of those.
    """

    factors: Sequence[Tensor]
    keys: Sequence[State | None]
    sizes: Mapping[State, int]
    _known: dict[State, Relevances] = field(default_factory=dict)

    def of(self, state: State) -> Relevances:
        """R_sq of the tokens of a state, by q."""
        if state not in self._known:
            self._known[state] = self._of(state)
        return self._known[state]

    def crosses(self, state: State) -> bool:
        """Whether tokens have attended to those of another set."""
        while state.before is not None:
            keys = [self.keys[number] for number in state.maps]
            if any(key is not None and key.home != state.home for key in keys):
                return True
            state = state.before
        return False

    def _of(self, state: State) -> Relevances:
        like = self.factors[0]
        if state in self.sizes:
            rows = self.sizes[state]
            identity = torch.eye(rows, dtype=like.dtype, device=like.device)
            zeros = {q: like.new_zeros(len(like), rows, n) for q, n in self.sizes.items()}
            return zeros | {state: identity.expand(len(like), -1, -1)}
        if state.parts:  # tokens of several sets, one after the other
            parts = [self.of(part) for part in state.parts]
            return {q: torch.cat([part[q] for part in parts], dim=1) for q in self.sizes}
        if state.before is None:
            raise unknown_tokens()
        found = self.of(state.before)
        for number in state.maps:  # all of them from the R of before
            added = self._added(state.before, self.factors[number], self.keys[number])
            found = {q: R + added[q] if q in added else R for q, R in found.items()}
        return found

    def _added(self, state: State, C: Tensor, key: State | None) -> Relevances:
        if key is None:
            raise unknown_tokens()
        own, other = self.of(state), self.of(key)
        rows = (next(iter(x.values())).shape[1] for x in (own, other))
        if C.shape[1:] != torch.Size(rows):  # tokens are dropped, or merged, between blocks
            raise unknown_tokens()
        if key.home == state.home:
            return {q: C @ R for q, R in other.items()}
        s, q = beginning(state), beginning(key)
        if s not in self.sizes or q not in self.sizes:
            raise unknown_tokens()
        return {q: hat(own[s]).mT @ C @ hat(other[q]), s: C @ other[s]}


def beginning(state: State) -> State:
    """The state that tokens begin with."""
    while state.before is not None:
        state = state.before
    return state


def hat(R: Tensor) -> Tensor:
    """I + (R - I) / rowsum(R - I), [B, n, n] (eq. 8, 9); a row of I stays one."""
    identity = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
    gathered = R - identity
    total = gathered.sum(dim=-1, keepdim=True)
    return identity + gathered / total.masked_fill(total == 0, 1)


def unknown_tokens() -> UnsupportedModel:
    return UnsupportedModel(
        "bimodal_attention follows sets of tokens that are sources, and one of them is none; "
        "accepted: learned= with the names of the parameters that are tokens, such as object "
        "queries; or a method that follows tokens, such as generic_attention"
    )
