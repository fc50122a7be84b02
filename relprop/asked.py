"""What is asked of the engine, as its methods take it; one line where that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral

import torch
from torch import Tensor

from relprop.errors import described
from relprop.recording import operations as ops
from relprop.rules import RULE_SETS, Corrections, Guided, rule_set

# They are read as other operations, or relevance moves as a gradient does.
WITHOUT_RULES = ("sub", "rsub", "div", "rdiv", "addmm", "moved", "winner")


def resolve_target(target: int | Tensor | None, logits: Tensor, called: str = "target") -> Tensor:
    """The class to explain of each sample, [B].

    A GPU is waited for where classes are a tensor, whose values are checked.

    >>> logits = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]])
    >>> resolve_target(None, logits), resolve_target(2, logits)
    (tensor([1, 0]), tensor([2, 2]))
    """
    batch, classes = logits.shape
    if target is None:
        return logits.argmax(dim=-1)
    within = f"accepted: classes 0 to {classes - 1}"
    if isinstance(target, Integral) and not isinstance(target, bool):
        if not 0 <= target < classes:
            raise ValueError(f"{called} is {target}; {within}")
        return logits.new_full((batch,), int(target), dtype=torch.long)
    accepted = f"accepted: None, a class or {batch} of them"
    try:
        found = torch.as_tensor(target, device=logits.device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{called} is {described(target)}; {accepted}") from None
    is_whole = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
    if not is_whole or found.shape not in ((), (batch,)):
        raise ValueError(
            f"{called} has type {found.dtype} and shape {list(found.shape)}; {accepted}"
        )
    outside = found[(found < 0) | (found >= classes)]
    if outside.numel():
        raise ValueError(f"{called} is {outside[0].item()}; {within}")
    return found.long().expand(batch)


def check_against(other: Tensor, target: Tensor) -> None:
    """A ValueError where a class [B] is to be explained against itself."""
    for sample in (other == target).nonzero()[:1, 0].tolist():
        raise ValueError(
            f"against is {int(other[sample])}, the class that is explained of sample {sample}; "
            "accepted: another class"
        )


def check_rules(rules: object) -> None:
    """A ValueError where the option is no rule set, or has rules of what is no operation."""
    if rules is None or isinstance(rules, str):
        rule_set("paper" if rules is None else rules)  # type: ignore[arg-type]
        return
    own = rules.rules if isinstance(rules, Corrections | Guided) else rules
    if not isinstance(own, Mapping):
        if not callable(own):
            raise ValueError(
                f"rules is {described(rules)}; accepted: {', '.join(RULE_SETS)}, a mapping "
                "from operations to rules, or a function (operation, block, depth) -> rule"
            )
        return
    known = known_operations()
    for name, rule in own.items():
        if name not in known:
            raise ValueError(f"rules has {name!r}, no operation; accepted: {', '.join(known)}")
        if rule is not None and not callable(rule):
            raise ValueError(
                f"rules has {described(rule)} for {name!r}; accepted: a function, as of "
                "relprop.rules"
            )


def known_operations() -> list[str]:
    """Names under which rule sets may have rules, those of registered functions among them."""
    own = [x for x in vars(ops).values() if isinstance(x, ops.Operation)]
    names = [x.name for x in (*ops.VOCABULARY, *own, *ops.OPERATIONS.values())]
    return [name for name in dict.fromkeys(names) if name not in WITHOUT_RULES]
