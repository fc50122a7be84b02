"""Walks of rules that want the gradient (:class:`relprop.rules.Guided`).

The gradient of p_t goes first, and leaves what arrives at the calls whose rules want it. Relevance
then begins at the input of the last linear layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from relprop.errors import UnsupportedModel
from relprop.recording import operations as ops
from relprop.recording.graph import Call, Relevance
from relprop.recording.record import AttentionMap, Recording
from relprop.recording.refusals import check_batch_first
from relprop.rules.agf import probability
from relprop.rules.gradient import Own
from relprop.rules.guided import At, Guided
from relprop.walks.backward import Backward, Top


@dataclass
class Noting:
    """The gradient, which leaves what arrives at the outputs of the calls ``of``, by number."""

    of: dict[int, At]

    def back(self, node, call: Call, arriving: Tensor) -> Own:
        if call.number in self.of:
            self.of[call.number] = self.of[call.number]._replace(gradient=arriving.contiguous())
        return Own(arriving)


@dataclass
class GuidedRelevance(Relevance):
    """Relevance by rules that may want the gradient; ``places`` of the calls that have it."""

    places: dict[int, At] = field(default_factory=dict)

    def place(self, call: Call) -> At | None:
        return self.places.pop(call.number, None)  # a walk passes a call once


class Parts:
    """The linear maps that make queries, keys and values of one input, as a walk comes by."""

    def __init__(self, count: int, batch: int) -> None:
        self.batch = batch
        self.left, self.sums = count, (torch.zeros(()), torch.zeros(()))

    def with_part(self, C: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor] | None:
        first = self.sums[0].ndim == 0
        self.sums = (C, gradient) if first else (self.sums[0] + C, self.sums[1] + gradient)
        self.left -= 1
        return None if self.left else self.sums


def begin(
    backward: Backward,
    rules: Guided,
    target: Tensor,
    against: Tensor | None,
    eps: float,
    inputs: Sequence[Tensor],
) -> tuple[Top, GuidedRelevance]:
    """Where relevance begins and with what, x * dp_t/dx, and the walk of the rules to ``inputs``.

    Raises:
        UnsupportedModel: there is no other class than the one that is explained; nothing lies
            between the logits and the input whose relevance the gradient could guide.
    """
    logits, recording = backward.logits, backward.recording
    if logits.shape[1] < 2:
        raise UnsupportedModel(
            "agf explains the probability of a class among others, and the model has one output; "
            "accepted: two classes or more"
        )
    last = list(_first_below([get_gradient_edge(logits).node], _is_weighted))
    walk = GuidedRelevance(rules.rules, eps, recording.batch_size, recording.running)
    places = of_attention(recording) if recording.maps else of_convolutions(logits, last)
    if not last or not places:
        raise UnsupportedModel(
            "agf is of convolutional networks and of attention, and the model has neither between "
            "its input and its last linear layer; accepted: a convolution that has no sum of "
            "streams right above it, or self-attention; or another method, such as attnlrp"
        )
    for node, at in places:
        rule = walk.running.rule_of(node.call, rules.rules, "relevance")
        if getattr(rule, "wants_gradient", False):
            walk.places[node.call.number] = at
    edges = [_input_of(node) for node in last]
    top = top_of_probability(backward, target, against)
    found = backward.pull(*top, [*edges, *inputs], Noting(walk.places))
    values = [backward.value(node.saved_tensors[0]) for node in last]
    starts = [x * g for x, g in zip(values, found, strict=False)]
    return (edges, starts), walk  # type: ignore[return-value]


def top_of_probability(backward: Backward, target: Tensor, against: Tensor | None) -> Top:
    """The logits, and the gradient of p_t, or of p_t less another: as :meth:`Backward.top`."""
    logits = backward.logits
    score = torch.func.grad(lambda y: _difference(y, target, against))(backward.value(logits))
    return [logits], [score]


def _difference(logits: Tensor, target: Tensor, against: Tensor | None) -> Tensor:
    """The sum over a batch of p_t, or of p_t less that of another class."""
    total = probability(logits, target).sum()
    return total if against is None else total - probability(logits, against).sum()


# -------------------------------------------------------------------- which rules have a gradient

Places = list[tuple[Any, At]]
UNKNOWN = torch.zeros(())  # until the gradient has gone


def of_attention(recording: Recording) -> Places:
    """The linear maps that make queries, keys and values, joined by their input."""
    groups: dict[GradientEdge, dict] = {}
    for map in recording.maps:
        above = [get_gradient_edge(map.tensor).node]
        if map.values is not None:
            above.append(map.values[0].node)
        tokens = tuple(map.tensor.shape[dim] for dim in map.order[-2:])
        for node in _first_below(above, functools.partial(_makes, tokens)):
            _check_batch_first(node.call, map, recording.batch_size)
            groups.setdefault(_input_of(node), {})[node] = None  # once, of however many maps
    found: Places = []
    for nodes in groups.values():
        joined = Parts(len(nodes), recording.batch_size)
        found += [(node, At(UNKNOWN, joined=joined)) for node in nodes]
    return found


def _check_batch_first(call: Call, map: AttentionMap, batch: int) -> None:
    """Raises UnsupportedModel where tokens of several samples would be summed as of one."""
    given, windows = call.shapes[0], map.tensor.shape[map.order[0]]
    is_known = len(given) == 2 or given[0] in (batch, windows)  # all tokens, samples, or windows
    if not is_known or given[0] % batch:
        check_batch_first("queries, keys or values are made of a tensor", given, batch)


def of_convolutions(logits: Tensor, last: Sequence) -> Places:
    """Convolutions, and fully connected layers on a feature map, but for the ``last`` layers.

    In residual networks those of 1 x 1 and those right below a sum have no gradient, as published.
    """
    nodes = list(filter(_call, _below([get_gradient_edge(logits).node], lambda node: True)))
    sums = [n for n in nodes if n.call.operation is ops.ADD and None not in n.call.shares]
    flat = {n.call.number for n in last}
    flat |= {n.call.number for n in _first_below(_inputs(sums), _is_weighted, _is_scaling)}
    found: Places = []
    for node in nodes:
        call = node.call
        if call.number in flat:
            continue
        if call.operation is ops.LINEAR and call.flattened is not None:
            found.append((node, At(UNKNOWN, call.flattened)))
        elif call.operation is ops.CONV:
            image, kernel = call.shapes[0], call.shapes[1][2:]
            if kernel == image[2:] and call.output[2:].numel() == 1:  # as a linear layer
                found += [(node, At(UNKNOWN, image))] if kernel.numel() > 1 else []
            elif not (sums and kernel.numel() == 1):
                found.append((node, At(UNKNOWN)))
    return found


def _call(node) -> Call | None:
    return getattr(node, "call", None)


def _is_weighted(node) -> bool:
    call = _call(node)
    return call is not None and call.operation in ops.OF_CHANNELS


def _makes(tokens: tuple[int, ...], node) -> bool:
    """Whether a node is a linear map of tokens, and none that mixes the heads of a map."""
    if not _is_weighted(node):
        return False
    image = node.call.operation is not ops.LINEAR
    positions = node.call.shapes[0][2:] if image else node.call.shapes[0][1:-1]
    return positions != tokens


def _is_scaling(node) -> bool:
    """Whether a node is a norm, a scale or a move."""
    call = _call(node)
    return call is None or call.operation.name in ("batch_norm", "scaled", "shifted")


def _input_of(node) -> GradientEdge:
    """Where the first tensor of a recorded call is in the graph."""
    return GradientEdge(*node.next_functions[1])


def _inputs(nodes: Iterable) -> list[Node]:
    return [below for node in nodes for below, _ in node.next_functions[1:] if below is not None]


def _below(nodes: Iterable, passes: Callable[[Any], bool]) -> Iterator[Any]:
    """Nodes and all below them that are reached through nodes that pass."""
    left = list(nodes)
    seen = set(left)
    while left:
        node = left.pop()
        yield node
        if not passes(node):
            continue
        known = node.next_functions
        for below, _ in known if _call(node) is None else known[1:]:
            if below is not None and below not in seen:
                seen.add(below)
                left.append(below)


def _first_below(
    nodes: Iterable, is_met: Callable[[Any], bool], passes: Callable[[Any], bool] | None = None
) -> Iterator[Any]:
    """Of the ways down, the first nodes that are met; others are passed, or those that pass."""

    def goes_on(node) -> bool:
        return not is_met(node) and (passes is None or passes(node))

    return (node for node in _below(nodes, goes_on) if is_met(node))
