"""What a recording refuses, rather than let a map be silently wrong."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.overrides import resolve_name

from relprop.errors import UnsupportedModel
from relprop.recording.operations import OPERATIONS
from relprop.recording.tags import IDS, known_tag, on_path, role, tag, tensors_in


def check_batch_first(what: str, shape: torch.Size, batch: int, accepted: str = "") -> None:
    """Of what is shared out, read or begins in each sample; ``accepted``: more of what is."""
    if shape[0] != batch:
        raise UnsupportedModel(
            f"{what} of shape {list(shape)} for a batch of {batch}; accepted: batch first{accepted}"
        )


def check_recorded(path: list[Tensor], owner: object) -> None:
    """Relevance would cross what the recorder has not seen as a gradient does: silently wrong."""
    for x in path:
        known = known_tag(x)
        if known is None or known.owner is not owner:
            raise UnsupportedModel(
                f"a tensor of shape {list(x.shape)} depends on the input, but came out of code "
                "that is not a torch function (a custom autograd.Function, a scripted function, a "
                "full backward hook): relevance cannot cross it; write it in torch functions"
            )


def check_softmax(input: Tensor, dim=None, *args, **kwargs) -> None:
    if dim not in (-1, input.ndim - 1):
        raise UnsupportedModel(
            f"softmax of attention scores over dimension {dim}; accepted: the last, the keys"
        )


def run_unknown(function, args, kwargs):
    """A call without a rule is an error, unless nothing that relevance could follow comes out."""
    output = function(*args, **kwargs)
    if any(on_path(t) for t in tensors_in(output)):
        name = resolve_name(function) or repr(function)
        if function in OPERATIONS:
            called = " and ".join(
                f"{'a tensor' if on_path(t) else 'a constant'} {list(t.shape)}"
                for t in tensors_in(*args, *kwargs.values())
            )
            raise UnsupportedModel(f"no relevance rule for {name} as called here, of {called}")
        tensors = [t for t in tensors_in(*args, *kwargs.values()) if role(t) == IDS]
        if tensors and ("loss" in name or "entropy" in name):
            raise UnsupportedModel(
                f"the model makes a loss ({name}) of inputs {min(tag(tensors[0]).sources)!r}; "
                "accepted: inputs without it"
            )
        raise UnsupportedModel(
            f"no relevance rule for {name}; register one: "
            f"relprop.register({name}, rule), with rule 'unchanged', 'moved' or a function"
        )
    return output


def no_rule(rules, operation: str) -> UnsupportedModel:
    known = (
        f"; it has: {', '.join(rules)}"
        if isinstance(rules, Mapping)
        else (
            "; accepted: a function with a rule of relevance for it; one with corrections of the "
            "gradient goes into relprop.rules.Corrections(function)"
        )
    )
    return UnsupportedModel(f"the rule set has no rule for '{operation}'{known}")
