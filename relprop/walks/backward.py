"""One backward pass: what arrives at tensors of a recording, by whatever walk."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from relprop.recording.graph import Corrected, Relevance, Walk
from relprop.recording.record import Recording, Source
from relprop.recording.run import walking
from relprop.rules import Corrections, Guided, RuleSet, rule_set
from relprop.rules.weights import Weights

Differentiable = Literal[False, "attention", "exact"]
Top = tuple[Sequence[Tensor], Sequence[Tensor]]  # tensors, and what a backward pass begins with


@contextmanager
def _graph_is_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "a second time" not in str(error):
            raise
        raise RuntimeError(
            "the graph of the recording is freed: by a backward() of a loss on its maps, or by a "
            "recording of a single use; accepted: a recording for each backward()"
        ) from error


@dataclass
class Backward:
    """Backward passes through a recording, which takes one at a time.

    Attributes:
        logits: [B, C].
        differentiable: what of the passes has a graph to the parameters: False, nothing;
            ``"attention"``, attention maps, and so the weights that they move, while gradient and
            relevance are constants; ``"exact"``, everything.
    """

    logits: Tensor
    recording: Recording
    differentiable: Differentiable = False
    lock: threading.RLock = field(default_factory=threading.RLock)  # type: ignore[valid-type]

    def top(self, target: Tensor, against: Tensor | None = None) -> Top:
        """The logits, and what a backward pass begins with: y_t, or y_t less another."""
        classes = torch.arange(self.logits.shape[1], device=target.device)
        start = (classes == target[:, None]).to(self.logits.dtype)
        if against is not None:
            start = start - (classes == against[:, None]).to(start)
        return [self.logits], [start]

    def ruled(self, rules: str | RuleSet, eps: float) -> Relevance | Corrected:
        """The walk of a rule set that does not want the gradient."""
        chosen, running = rule_set(rules), self.recording.running
        if isinstance(chosen, Guided):
            raise ValueError(
                "rules: those of agf begin below the logits, and the method weighs what the head "
                "reads; accepted: with methods of relevance alone, such as agf and lrp"
            )
        if isinstance(chosen, Corrections):
            return Corrected(chosen.rules, eps, running)
        return Relevance(chosen, eps, self.recording.batch_size, running)

    def read(
        self,
        top: Top,
        tensors: Sequence[Tensor],
        walk: Relevance | Corrected,
        free: bool = False,
    ) -> tuple[Tensor, ...]:
        """Relevance of tensors."""
        found = self.pull(*top, tensors, walk, free)
        return tuple(walk.relevance(self.value(x), f) for x, f in zip(tensors, found, strict=True))

    def value(self, x: Tensor) -> Tensor:
        """A tensor as relevance is read of it: a constant, unless everything is differentiated."""
        return x if self.differentiable == "exact" else x.detach()

    def pull(
        self,
        outputs: Sequence[Tensor | GradientEdge],
        arriving: Sequence[Tensor],
        inputs: Sequence[Tensor | GradientEdge],
        walk: Walk | None,
        free: bool = False,
        graph: bool = False,
    ) -> tuple[Tensor, ...]:
        """What arrives at ``inputs`` by a walk; None is the gradient.

        ``free``: the graph goes as it is passed. ``graph``: the result has one of its own.
        """
        moves_attention = self.differentiable == "attention" and isinstance(walk, Weights)
        graph = graph or moves_attention or self.differentiable == "exact"
        with self.lock, walking(self.logits.device), self.recording.walk(walk), _graph_is_there():
            found = torch.autograd.grad(
                outputs,  # type: ignore[arg-type]
                inputs,  # type: ignore[arg-type]
                arriving,
                retain_graph=bool(self.differentiable) or not free,
                create_graph=graph,
                allow_unused=True,
            )
        return tuple(
            torch.zeros_like(x) if f is None else f for x, f in zip(inputs, found, strict=True)
        )

    def passes(self, source: Source, x: Tensor) -> bool:
        """Whether all that the logits take of a source goes through ``x``."""
        top, leaf, through = (get_gradient_edge(t).node for t in (self.logits, source.tensor, x))
        seen, left = {through}, [top]
        while left:
            for node, _ in left.pop().next_functions:
                if node is leaf and node not in seen:
                    return False
                if node is not None and node not in seen:
                    seen.add(node)
                    left.append(node)
        return True
