"""The recorded graph: calls with a second backward, and the walks that use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from relprop.errors import described
from relprop.recording.operations import Operation
from relprop.recording.refusals import check_batch_first, no_rule
from relprop.rules.gradient import Own
from relprop.rules.linear import Rule
from relprop.rules.sets import Rules, check_rule, find_rule

TENSOR = object()  # stands for a tensor in the arguments that a node keeps


class Product(NamedTuple):
    """A product A V: letters of each dimension, as of an einsum.

    ``values``: which of the tensors V is. ``letters`` of A [B, H, ..., n, m], of V and of A V;
    ``fused``: in A, V and A V the first is batch and heads together.
    """

    map: int
    values: int
    letters: tuple[str, str, str]
    fused: bool = False


class Call(NamedTuple):
    """A recorded call, without its tensors.

    ``shapes`` of its tensors; ``output``: shape of its output, whose ``number`` it is. ``block``:
    attention maps before it. ``rows``: as of the output's tag. ``shares``: of a sum or a product of
    streams, the part of the weight that each gets; None of a constant. ``pending``: of a sum that
    takes up the attention ``maps``, which of its streams has them. ``of_scores``: it is a sum of
    attention scores. ``product``: of an attention map and its values. ``unclear``:
    it is not known what its streams get of the weight of tokens. ``flattened``: shape of the
    feature map that a linear layer's input was, before it was flattened. ``by_token``: of a product
    of a stream and a constant, it is one of each token's channels. ``padded``: of a convolution, as
    of the tag of its input.
    """

    operation: Operation
    args: tuple
    kwargs: dict
    shapes: tuple[torch.Size, ...]
    output: torch.Size
    number: int
    block: int
    rows: int = 0
    shares: tuple[float | None, ...] = ()
    pending: tuple[bool, ...] = ()
    maps: tuple[int, ...] = ()
    of_scores: bool = False
    product: Product | None = None
    unclear: bool = False
    flattened: torch.Size | None = None
    by_token: bool = False
    padded: tuple[int, ...] = ()


class Walk(Protocol):
    """What a backward pass carries, and how."""

    def back(self, node: Any, call: Call, arriving: Tensor) -> Own | tuple[Tensor | None, ...]:
        """What the tensors of a call get of what arrives at its output."""


@dataclass(eq=False)
class Running:
    """The walk that is on its way through a recording; None is autograd's own gradient.

    ``blocks``: attention maps that the recording holds. ``own``: numbers of the calls that take
    their own gradient whatever the corrections, as parts of an operation that does.
    """

    walk: Walk | None = None
    blocks: int = 0
    own: set[int] = field(default_factory=set)

    def rule_of(self, call: Call, rules: Rules, carried: str) -> Rule | None:
        """The rule that a set, for what is carried, has for a call; None where it has none."""
        for name in filter(None, (call.operation.name, call.operation.known_as)):
            rule = find_rule(rules, name, call.block, self.blocks)
            if rule is not None:
                check_rule(rule, name, carried)
                return rule
        return None


class Recorded(torch.autograd.Function):
    """Identity on ``output``; backward: the gradient to it, or what a walk has for ``tensors``."""

    @staticmethod
    def forward(ctx, running: Running, call: Call, output, *tensors):
        ctx.set_materialize_grads(False)
        ctx.running, ctx.call = running, call
        if call.operation.keeps in ("inputs", "recompute"):
            ctx.save_for_backward(*tensors)
        elif call.operation.keeps == "all":
            ctx.save_for_backward(*tensors, output)
        return output.detach()

    @staticmethod
    def backward(ctx, arriving):
        none = (None,) * len(ctx.call.shapes)
        walk = ctx.running.walk
        if arriving is None:
            return (None, None, None, *none)
        if walk is None:
            return (None, None, arriving, *none)
        found = walk.back(ctx, ctx.call, arriving)
        if isinstance(found, Own):
            return (None, None, found.gradient, *none)
        return (None, None, None, *found, *none[len(found) :])


def arguments(node, call: Call) -> tuple[Tensor | None, list, dict]:
    """Output and arguments of a call that has kept what its rule needs.

    A walk whose result has a graph runs with gradients enabled (``create_graph``): then they are
    what they were made of.
    """
    saved = list(node.saved_tensors)
    if not torch.is_grad_enabled():
        saved = [t.detach() for t in saved]
    remaining = iter(saved)
    args = [next(remaining) if a is TENSOR else a for a in call.args]
    kwargs = {k: next(remaining) if a is TENSOR else a for k, a in call.kwargs.items()}
    if call.operation.keeps == "recompute":
        return torch.matmul(*args), args, kwargs
    return (saved[-1] if call.operation.keeps == "all" else None), args, kwargs


@dataclass
class Relevance:
    """Relevance by a rule set.

    ``culprits``: while asked for, the operations whose rule was the first not to give finite
    relevance.
    """

    rules: Rules
    eps: float
    batch: int
    running: Running
    culprits: list[str] | None = None

    def relevance(self, x: Tensor, arriving: Tensor) -> Tensor:
        """Relevance of a tensor, of what arrives there."""
        return arriving

    def place(self, call: Call) -> Any:
        """What a rule that wants the gradient is told of its place."""
        raise ValueError(
            f"rules: that of {call.operation.name!r} wants the gradient; accepted: in a set "
            "relprop.rules.Guided(rules), such as relprop.rules.agf()"
        )

    def back(self, node, call: Call, arriving: Tensor) -> tuple[Tensor | None, ...]:
        if call.operation.unchanged:
            return (arriving,)
        rule = self.running.rule_of(call, self.rules, "relevance") or call.operation.rule
        if rule is None:
            raise no_rule(self.rules, call.operation.name)
        if getattr(rule, "per_sample", False) and not call.of_scores:
            if call.rows:
                rule = _of_samples(rule, self.batch)
            else:
                accepted = ", as relevance is shared out in each sample"
                check_batch_first("a sum of two streams", call.output, self.batch, accepted)
        output, args, kwargs = arguments(node, call)
        if getattr(rule, "wants_gradient", False):
            kwargs["at"] = self.place(call)
        found = _of_tensors(call, rule(arriving, output, *args, eps=self.eps, **kwargs))
        if self.culprits is not None and arriving.isfinite().all():
            if not all(r.isfinite().all() for r in found if r is not None):
                self.culprits.append(f"'{call.operation.name}' to {list(arriving.shape)}")
        return found


def _of_samples(rule: Rule, batch: int) -> Rule:
    """A rule that sums over each sample, of tensors [B * rows, ...]."""

    def by_sample(relevance: Tensor, output: Tensor, *args, eps: float, **kwargs):
        tensors = [
            x.unflatten(0, (batch, -1)) if isinstance(x, Tensor) and len(x) == len(output) else x
            for x in (relevance, output, *args)
        ]
        return tuple(r.flatten(0, 1) for r in rule(*tensors, eps=eps, **kwargs))

    return by_sample


def registered(node, call: Call, gradient: Tensor, eps: float) -> tuple[Tensor | None, ...]:
    """The rule that a user has registered as a correction: R_x / x of R = y g, 0 where x is 0."""
    output, args, kwargs = arguments(node, call)
    assert call.operation.rule is not None and output is not None
    rule = call.operation.rule
    found = _of_tensors(call, rule(gradient * output, output, *args, eps=eps, **kwargs))
    tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
    return tuple(
        None if r is None else r / x.masked_fill(x == 0, torch.inf)
        for x, r in zip(tensors, found, strict=False)
    )


@dataclass
class Corrected:
    """A gradient with corrections (:mod:`relprop.rules.gradient`)."""

    rules: Rules
    eps: float
    running: Running
    culprits: list[str] | None = None

    def relevance(self, x: Tensor, arriving: Tensor) -> Tensor:
        """x * g."""
        return x * arriving

    def back(self, node, call: Call, arriving: Tensor) -> Any:
        rule = self.running.rule_of(call, self.rules, "gradient")
        if rule is None and call.operation.registered:
            return registered(node, call, arriving, self.eps)
        if rule is None or call.number in self.running.own:
            return Own(arriving)
        if getattr(rule, "alone", False):
            return rule(arriving)
        output, args, kwargs = arguments(node, call)
        found = rule(arriving, output, *args, eps=self.eps, **kwargs)
        return found if isinstance(found, Own) else _of_tensors(call, found)


def _of_tensors(call: Call, found: Any) -> tuple[Tensor | None, ...]:
    """What a rule returns, as a tuple; a ValueError where it is no relevance."""
    several = found if isinstance(found, tuple) else (found,)
    if found is None or not all(x is None or isinstance(x, Tensor) for x in several):
        raise ValueError(
            f"the rule of {call.operation.name!r} returns {described(found)}; accepted: relevance "
            "of its tensors, in their order: a tensor, or a tuple of them (None of a constant)"
        )
    return several
