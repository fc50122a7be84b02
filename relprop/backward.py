"""The two backwards of a recorded call: the gradient is autograd's own, the relevance a rule's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relprop.errors import UnsupportedModel
from relprop.operations import UNCHANGED
from relprop.rules import ABOVE_ATTENTION, RuleSet, nothing

TENSOR = object()  # stands for a tensor in the arguments that a node keeps


@dataclass
class Backward:
    """Which of the two backwards is running over a recording, and with what."""

    rules: RuleSet | None = None  # None: the gradient
    eps: float = 0.0
    blocks: int = 0  # attention maps that the recording holds
    # While asked for: the operations whose rule was the first not to give finite relevance.
    culprits: list[str] | None = None


class Recorded(torch.autograd.Function):
    """Identity on ``output``; backward: the gradient to it, or the relevance to ``tensors``."""

    @staticmethod
    def forward(ctx, backward: Backward, operation: str, args, kwargs, output, *tensors):
        ctx.set_materialize_grads(False)
        ctx.backward_, ctx.operation, ctx.args, ctx.kwargs = backward, operation, args, kwargs
        ctx.count, ctx.blocks = len(tensors), backward.blocks
        if operation == "matmul":  # cheap to recompute, and Q K^T is as large as the attention
            ctx.save_for_backward(*tensors)
        elif operation != UNCHANGED:
            ctx.save_for_backward(*tensors, output)
        return output.detach()

    @staticmethod
    def backward(ctx, arriving):
        backward, nothing = ctx.backward_, (None,) * ctx.count
        if arriving is None:
            return (None,) * 5 + nothing
        if backward.rules is None:
            return (*(None,) * 4, arriving, *nothing)
        if ctx.operation == UNCHANGED:
            return (*(None,) * 5, arriving, *nothing[1:])
        relevance = _apply_rule(ctx, backward, arriving)
        if backward.culprits is not None and arriving.isfinite().all():
            if not all(r.isfinite().all() for r in relevance if r is not None):
                backward.culprits.append(f"'{ctx.operation}' to {list(arriving.shape)}")
        return (*(None,) * 5, *relevance, *nothing[len(relevance) :])


def _apply_rule(ctx, backward: Backward, arriving: Tensor) -> tuple[Tensor, ...]:
    rule = backward.rules.get(ctx.operation)
    if ctx.blocks == backward.blocks:
        rule = backward.rules.get(ABOVE_ATTENTION + ctx.operation, rule)
    if rule is None:
        known = ", ".join(name for name in backward.rules if not name.startswith(ABOVE_ATTENTION))
        raise UnsupportedModel(f"the rule set has no rule for '{ctx.operation}'; it has: {known}")
    if rule is nothing:
        return ()
    saved = [t.detach() for t in ctx.saved_tensors]
    tensors = saved[: ctx.count]
    remaining = iter(tensors)
    args = [next(remaining) if a is TENSOR else a for a in ctx.args]
    kwargs = {k: next(remaining) if a is TENSOR else a for k, a in ctx.kwargs.items()}
    output = torch.matmul(*args, **kwargs) if ctx.operation == "matmul" else saved[-1]
    relevance = rule(arriving, output, *args, eps=backward.eps, **kwargs)
    return relevance if isinstance(relevance, tuple) else (relevance,)
