"""Explanations from one recording: a class, or several at once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from relprop.asked import check_against, resolve_target
from relprop.batching import MAX_MEMORY, check_memory, memory_of_walk
from relprop.errors import UnsupportedModel, warn_caller
from relprop.explanation import Explanation
from relprop.methods import METHODS, Found, Options
from relprop.recording.run import walking
from relprop.rules import Corrections, rule_set
from relprop.trace import Trace

EXPLODED = 1e6  # relevance, by the logits


def explain_trace(
    trace: Trace,
    target: int | Tensor | None = None,
    method: str = "transformer_attribution",
    *,
    against: int | Tensor | None = None,
    **options,
) -> Explanation:
    """As :func:`explain`, from a recording: several methods and classes from one forward pass.

    >>> import relprop, timm, torch
    >>> trace = relprop.record(timm.create_model("test_vit"), torch.rand(1, 3, 160, 160))
    >>> found = [relprop.explain_trace(trace, 3, method) for method in ("rollout", "lrp")]
    >>> [explanation.grid for explanation in found]
    [(10, 10), (160, 160)]
    """
    check_method(method, options)  # which max_memory is none of
    return explain_classes(trace, [target], method, against=against, **options)[0]


def explain_classes(
    trace: Trace,
    targets: Sequence[int | Tensor | None],
    method: str = "transformer_attribution",
    max_memory: int = MAX_MEMORY,
    *,
    against: int | Tensor | None = None,
    **options,
) -> list[Explanation]:
    """As :func:`explain_trace` for each of ``targets``, in one backward pass.

    What of the rules does not depend on the class is computed once, and small batches become
    larger ones. More classes than fit into ``max_memory`` bytes, about, are explained in parts.

    >>> import relprop, timm, torch
    >>> trace = relprop.record(timm.create_model("test_vit"), torch.rand(2, 3, 160, 160))
    >>> predicted, third = relprop.explain_classes(trace, [None, 3])
    >>> third.target
    tensor([3, 3])
    """
    chosen = check_method(method, options)
    check_memory(max_memory)
    together = len(targets)
    if together > 1:
        together = min(together, max_memory // memory_of_walk(trace))

    def of_class(trace: Trace, target: Tensor) -> Found:
        return METHODS[method](trace, target, chosen)

    live = bool(trace.differentiable)
    rules = METHODS[method].rules if chosen.rules is None else chosen.rules
    with walking(trace.logits.device), torch.set_grad_enabled(live or torch.is_grad_enabled()):
        classes = [resolve_target(target, trace.logits) for target in targets]
        if against is not None:
            other = resolve_target(against, trace.logits, "against")
            trace = trace.versus(other)
        for target in classes:
            if against is not None:
                check_against(other, target)
            trace.check_apart(target, rules)
        if together < 2 or live:
            found = [of_class(trace, target) for target in classes]
        else:
            each = functools.partial(of_class, trace)
            found = _unstacked(torch.vmap(each, chunk_size=together)(torch.stack(classes)))
        if live:
            _check_graph(found, method, trace)
    if METHODS[method].signed:
        _warn_of_explosion(found, trace.logits, isinstance(rule_set(rules), Corrections))
    return [explanation_of(trace, r, t) for r, t in zip(found, classes, strict=True)]


def _check_graph(found: Sequence[Found], method: str, trace: Trace) -> None:
    """A ValueError where no map depends on attention, which alone is differentiated."""
    tensors = [x for f in found for x in (f.values() if isinstance(f, dict) else [f])]
    if any(x.requires_grad for x in tensors):
        return
    raise ValueError(
        f"maps by {method!r} with differentiable={trace.differentiable!r} depend on attention maps "
        "by constants alone; accepted: generic_attention, rollout and others with attention in "
        "their map; or differentiable='exact'"
    )


def _warn_of_explosion(found: Sequence[Found], logits: Tensor, corrected: bool) -> None:
    """Where sums of both signs nearly cancel, a share in them has no bound.

    Neither has a gradient of many layers, which is ``corrected``.
    """
    if logits.device.type != "cpu":  # which would have to wait for the values
        return
    tensors = [x for f in found for x in (f.values() if isinstance(f, dict) else [f])]
    largest = max((float(x.detach().abs().max()) for x in tensors), default=0)
    of_logits = float(logits.abs().max())
    if of_logits > 0 and largest > EXPLODED * of_logits:
        warn_caller(
            f"relevance reaches {largest:.0e} of logits up to {of_logits:.0e}: by these rules it "
            "explodes on this model" + ("" if corrected else '; try method="attnlrp"')
        )


def _unstacked(found: Found) -> list[Found]:
    """Of several classes [classes, B, ...], each; by source where there are several."""
    if isinstance(found, Tensor):
        return list(found)
    return [dict(zip(found, x, strict=True)) for x in zip(*found.values(), strict=True)]


def explanation_of(trace: Trace, found: Found, target: Tensor) -> Explanation:
    """Relevance that was found in a recording for classes ``target`` [B], as an explanation."""
    if isinstance(found, Tensor):
        return _of_source(trace, trace.sources[0], found, target)
    several = {name: _of_source(trace, name, x, target) for name, x in found.items()}
    return Explanation.of_sources(several)


def _of_source(trace: Trace, name: str, relevance: Tensor, target: Tensor) -> Explanation:
    """Of relevance of all tokens [B, N], or of the input's: padding, class token and such aside.

    Or of pixels [B, H, W].
    """
    if relevance.ndim == 3:
        grid = (relevance.shape[1], relevance.shape[2])
        return Explanation(relevance.flatten(1), target, trace.logits, grid, source=name)
    places, entries = trace.places_of(name), relevance.shape[1]
    if places is not None and entries == places.length != places.count:
        return Explanation(relevance, target, trace.logits, None, source=name)
    if len(trace.sources) == 1:
        if trace.mask is not None and trace.depth and trace.valid is not None:
            for valid in (trace.valid, trace.mask):
                if relevance.shape == valid.shape:
                    relevance = relevance.masked_fill(~valid, 0)
                    break
        places = places or trace.places
        if entries != places.count and entries != trace.tokens:
            raise UnsupportedModel(
                f"the method returned relevance of {entries} entries, and the model has "
                f"{trace.tokens} tokens; accepted: one entry a token, or one of each of the "
                f"{places.count} parts of the input"
            )
        if entries != places.count:
            relevance = relevance[:, trace.prefix :][:, : places.count]
    if places is None:
        return Explanation(relevance, target, trace.logits, None, source=name)
    if places.order is not None:
        relevance = relevance[:, places.order.to(relevance.device)]
    if (sides := places.sides) is None:
        return Explanation(relevance, target, trace.logits, None, source=name)
    shape = (sides[0].count, sides[1].count)
    tiled = all(side.is_tiled for side in sides)
    return Explanation(relevance, target, trace.logits, shape, None if tiled else sides, name)


def check_method(method: str, options: dict) -> Options:
    """The options of a method, or a ValueError that says what is accepted.

    >>> check_method("rollout", {"start_layer": 1}).start_layer
    1
    >>> check_method("rolout", {})  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    relprop.errors.UnknownName: method is 'rolout'; accepted: transformer_attribution, ...
    """
    METHODS.find(method)
    accepted = [field.name for field in dataclasses.fields(Options)]
    if "differentiable" in options:
        raise ValueError(
            "differentiable is of a recording, which keeps its graph; accepted: "
            "explain_trace(relprop.record(..., differentiable='exact'), ...)"
        )
    for name in options:
        if name not in accepted:
            raise ValueError(f"unknown option {name!r}; accepted: {', '.join(accepted)}")
    return Options(**options)
