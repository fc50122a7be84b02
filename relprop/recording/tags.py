"""What is known of a recorded tensor: one tag each, which holds no tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

# What a tensor is, where a rule or an attention map depends on it. Views and elementwise operations
# keep the role of their input.
PIXELS = "pixels"  # of whatever shape: numbers that relevance flows back to
PICTURE = "picture"  # pixels [B, C, H, W]
IDS = "ids"
LEARNED = "learned"  # a parameter that is to be a source, until it has a row for each sample
WEIGHT = "weight"  # made of parameters alone, where a recording is differentiable
SCORES = "attention scores"
EXPONENTIAL = "exponential of attention scores"
ATTENTION = "attention"


@dataclass(frozen=True, eq=False)
class State:
    """A set of tokens after a sum that took up attention, or as a source begins.

    Attributes:
        number: of the recorded tensor; the higher, the newer.
        base: the state it was built on; None of a source.
        maps: numbers of the attention maps that the sum took up.
        home: names of the sources whose tokens these are, one after the other.
        parts: of tokens of several sources in one sequence, their states.
        query: of attention that was added to constants, the state that it leads from.
    """

    number: int
    base: State | None = None
    maps: tuple[int, ...] = ()
    home: tuple[str, ...] = ()
    parts: tuple[State, ...] = ()
    query: State | None = None

    @property
    def before(self) -> State | None:
        """The state of these tokens before the sum; None of a source."""
        return self.query if self.base is None else self.base

    @property
    def is_first(self) -> bool:
        """Whether no attention is in it."""
        return self.base is None and not self.maps and all(part.is_first for part in self.parts)

    def builds_on(self, other: State) -> bool:
        below = (self.base, *self.parts)
        return any(s is other or s is not None and s.builds_on(other) for s in below)


class Stack(NamedTuple):
    """Streams side by side along a dimension of their own, of which attention is pending in some.

    ``dim`` counts from the last, -1; None where operations have lost it. ``parts``: the tags of
    the streams; None of a constant.
    """

    parts: tuple[Tag | None, ...]
    dim: int | None


@dataclass(eq=False, slots=True)  # frozen takes twice as long, for each tensor
class Tag:
    """What is known of a tensor of a recording. It is not changed once the tensor has it.

    Attributes:
        owner: the recording.
        number: of the tensor, in the order of recording.
        role: pixels, ids, scores, ...; None of any other.
        origin: number of the tensor that this is an elementwise function of.
        multiple: it is a multiple of its origin.
        statistic: it is a mean, a norm, ... of its origin over the last dimension.
        norm_of: number of the tensor of whose norm, over other dimensions, it is made alone.
        state: newest tokens that this is a function of.
        pending: attention maps that it depends on and that no sum has taken up yet.
        after: attention maps that were pending in what those maps were made of.
        stack: the streams that were stacked to make it.
        apart: the same attention is not pending in all of a token.
        mixed: it is not token by token.
        form: 1 of another form of a source (moved, normalised, scaled, with constants added), 2 of
            what its first layer puts out, 0 of anything else.
        depth: attention maps on its chain.
        channels: its dimension of channels, -1 or 1.
        rows: entries of each sample, one sample after the other, that a reshape has put into the
            first dimension; 0 where that is samples alone, or anything else.
        sources: names of the sources that it depends on.
        query, key: of scores and attention maps, the states that they lead from and to.
        flattened: of a feature map [B, C, ...] that was made [B, ...], its shape.
        padded: zeros that were put at each end of its dimensions, the last first.
        to_constants: scores, or an attention map, of which the keys are constants.
    """

    owner: object
    number: int
    role: str | None = None
    origin: int = -1
    multiple: bool = True
    statistic: bool = False
    norm_of: int = -1
    state: State | None = None
    pending: frozenset[int] = frozenset()
    after: frozenset[int] = frozenset()
    stack: Stack | None = None
    apart: bool = False
    mixed: bool = False
    form: int = 0
    depth: int = 0
    channels: int = -1
    rows: int = 0
    sources: frozenset[str] = frozenset()
    query: State | None = None
    key: State | None = None
    flattened: torch.Size | None = None
    padded: tuple[int, ...] = ()
    to_constants: bool = False


def known_tag(x: Tensor) -> Tag | None:
    """The tag of a tensor; None of one that no recording has seen."""
    return getattr(x, "_relprop", None)


def tag(x: Tensor) -> Tag:
    """The tag of a tensor that is recorded."""
    return x._relprop  # type: ignore[attr-defined]


def role(x: Tensor) -> str | None:
    known = known_tag(x)
    return None if known is None else known.role


def set_tag(x: Tensor, value: Tag) -> Tensor:
    x._relprop = value  # type: ignore[attr-defined]
    return x


def of_weights(x: Tensor, owner: object) -> Tensor:
    """``x``, which is made of parameters alone, marked so: it may require grad, and is on no path.

    Not a parameter itself, which outlives the recording.
    """
    if x.requires_grad and not x.is_leaf and known_tag(x) is None:
        set_tag(x, Tag(owner, 0, WEIGHT))
    return x


def follow(number: int, below: list[Tag], **changes) -> Tag:
    """The tag of what is computed from tensors with the tags ``below``."""
    first, stacks = below[0], [t.stack for t in below if t.stack is not None]
    made = Tag(
        first.owner,
        number,
        origin=number,
        state=first.state,
        pending=first.pending,
        after=first.after,
        stack=stacks[0]._replace(dim=None) if stacks else None,
        apart=first.apart,
        mixed=first.mixed,
        depth=first.depth,
        channels=first.channels,
        rows=first.rows,
        sources=first.sources,
    )
    if len(below) > 1:
        states = [t.state for t in below if t.state is not None]
        made.state = max(states, key=lambda state: state.number, default=None)
        made.pending = frozenset().union(*(t.pending for t in below))
        made.after = frozenset().union(*(t.after for t in below))
        made.apart = any(t.apart for t in below)
        made.mixed = any(t.mixed for t in below)
        made.depth = max(t.depth for t in below)
        made.sources = frozenset().union(*(t.sources for t in below))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def shares(a: Tag, b: Tag) -> tuple[float, float, int | None] | None:
    """Weights of the two streams of a sum, and which of them has attention that it takes up.

    Each state of a token counts once: the first case that holds is taken. None where it is not
    known how: a stream has attention that the other has taken up before.
    """
    if a.pending == b.pending and a.state is b.state:
        return 0.5, 0.5, None
    if _has_taken(a.state, b.pending) or _has_taken(b.state, a.pending):
        return None
    if a.pending and b.pending and not (a.pending & b.after or b.pending & a.after):
        return 1, 1, None  # attentions side by side
    if a.pending or b.pending:  # I + C; attention to what attention made without an I is the later
        return 1, 1, int(not a.pending or bool(a.pending & b.after))
    if a.state is b.state or a.state is None or b.state is None:  # the residual of an MLP
        return 0.5, 0.5, None
    if b.state.builds_on(a.state):  # parallel blocks
        return 0, 1, None
    if a.state.builds_on(b.state):
        return 1, 0, None
    return (1, 1, None) if a.depth or b.depth else (0.5, 0.5, None)


def _has_taken(state: State | None, maps: frozenset[int]) -> bool:
    """Whether a state, or one that it was built on, took up one of the attention maps."""
    left, seen = [state] if maps else [], set()
    while left:
        if (one := left.pop()) is None or one in seen:
            continue
        if not maps.isdisjoint(one.maps):
            return True
        seen.add(one)
        left += (one.before, *one.parts)
    return False


def tensors_in(*values) -> list[Tensor]:
    """The tensors among arguments and in lists of them (``torch.cat``)."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found.extend(tensors_in(*value))
    return found


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """``value`` with what ``function`` makes of it; of lists and tuples, of each of their parts."""
    if not isinstance(value, (tuple, list)) or isinstance(value, torch.Size):
        return function(value)
    values = [mapped(x, function) for x in value]
    return type(value)(*values) if hasattr(value, "_fields") else type(value)(values)


def on_path(x) -> bool:
    """Whether relevance can reach ``x``: it depends on a source.

    In a differentiable recording parameters, and what is made of them alone, require grad as well.
    """
    if not isinstance(x, Tensor) or not x.requires_grad:
        return False
    known = known_tag(x)
    return not x.is_leaf if known is None else known.role not in (WEIGHT, IDS, LEARNED)
