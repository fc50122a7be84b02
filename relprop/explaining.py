"""What the engine is for: which inputs made the model decide for a class."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor, nn

from relprop.asked import check_against, resolve_target
from relprop.batching import (
    LARGEST,
    MAX_MEMORY,
    Batch,
    check_memory,
    equal_parts,
    measure_sample,
    memory_of_walk,
    output_of_part,
)
from relprop.errors import TooLarge, UnsupportedModel, warn_caller
from relprop.explanation import Explanation, joined
from relprop.methods import METHODS, Found, Options
from relprop.recording.model_io import check_position
from relprop.recording.run import names_of, walking
from relprop.rules import Corrections, rule_set
from relprop.trace import Trace, record

EXPLODED = 1e6  # relevance, by the logits


def explain(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Tensor],
    target: int | Tensor | None = None,
    method: str = "transformer_attribution",
    *,
    against: int | Tensor | None = None,
    output: Callable[[object], Tensor] | None = None,
    position: int | Tensor | None = None,
    learned: Sequence[str] = (),
    max_memory: int | None = None,
    **options,
) -> Explanation:
    """Explain a batch: the relevance of every token for ``target``.

    On a CPU a batch of which one tensor would exceed 32 MiB is taken in parts, which is faster: a
    first call of the model breaks off at that tensor, others follow. A batch whose scores are of
    all pairs of its samples is taken whole. To have the model called once, with the whole batch:
    ``relprop.explain_trace(relprop.record(model, inputs))``.

    Args:
        inputs: a tensor or a mapping of keyword tensors.
        target: None for the predicted class, one class, or a tensor [B].
        method: a name in ``relprop.METHODS``.
        against: a class or [B]: explains y_target - y_against, why this rather than that.
        output, position, learned: what is explained, and what else is a source
            (:func:`relprop.record`).
        max_memory: bytes, beyond the model's own, that a batch may take, about; a larger batch is
            explained in parts, down to one sample at a time (and one sample is recorded once more,
            to see what it takes). Of several inputs it must be clear which are one for each sample:
            the first, ``*_ids``, ``attention_mask``, ``pixel_values``, ``inputs_embeds``, and what
            has a row for each of a text's tokens.
        options: ``start_layer``, ``rules``, ``eps``, ``normalize_rows``, ``precision``, ``level``,
            ``lm_head`` (:class:`relprop.methods.Options`).

    >>> import relprop, timm, torch
    >>> model = timm.create_model("vit_tiny_patch16_224")
    >>> explanation = relprop.explain(model, torch.rand(2, 3, 224, 224))
    >>> explanation.heatmap(224).shape
    torch.Size([2, 224, 224])
    """
    check_method(method, options)  # before the forward pass
    batch = Batch(inputs)
    position = check_position(position, batch.size)
    recorded = {"output": output, "learned": names_of(learned)}
    size, unclear = batch.size, batch.indivisible
    # Of methods that came from outside it is not known whether they look at one sample at a time,
    # and of an output whether samples are coupled in it.
    apart = unclear is None and output is None and not recorded["learned"]
    largest = LARGEST if apart and METHODS[method].frees_graph else None
    if max_memory is not None:
        check_memory(max_memory)
        if unclear is not None:
            raise ValueError(
                f"max_memory: it is not clear whether inputs {unclear!r} are one for each of the "
                f"{size} samples or for all; accepted: a batch of another size, or no max_memory"
            )
        if output is not None:
            recorded["output"] = functools.partial(output_of_part, output)
        size = max(1, max_memory // measure_sample(model, batch, position, recorded))
    with torch.inference_mode(False):  # what comes out may be part of a loss
        parts = _Parts(model, batch, method, size, largest, max_memory is None, recorded)
        return parts.explain(target, against, position, options)


@dataclass
class _Parts:
    """``size`` samples at a time, or fewer where a tensor had more than ``largest`` bytes.

    ``or_whole``: all of them where they cannot be parted, which is an error otherwise.
    """

    model: nn.Module
    batch: Batch
    method: str
    size: int
    largest: int | None
    or_whole: bool
    recorded: dict

    def explain(self, target, against, position, options: dict) -> Explanation:
        parts: list[Explanation] = []
        start, batch = 0, self.batch.size
        while start < batch:
            taken = min(self.size, batch - start)
            try:
                trace = self._record(start, taken, position, self.largest if taken > 1 else None)
            except TooLarge as tensor:  # seen in the first block, so that little is lost
                most = max(1, taken * LARGEST // tensor.nbytes)
                self.size = equal_parts(batch - start, most)
                continue
            if start == 0 and taken < batch and self._are_of_pairs(trace.logits, position):
                self.size, self.largest = batch, None
                del trace
                continue
            if start == 0:  # wrong ones are found before hours of work
                of_all = trace.logits[:1].expand(batch, -1)
                target, against = (
                    _checked(x, of_all, name)
                    for name, x in (("target", target), ("against", against))
                )
            # A user's method may ask more of the trace than the methods that it is made of.
            trace.single_use = METHODS[self.method].frees_graph
            of_part, other = (_rows(x, start, taken) for x in (target, against))
            parts.append(explain_trace(trace, of_part, self.method, against=other, **options))
            del trace  # one recording at a time: it is gone before the next
            start += taken
        return joined(parts)

    def _record(self, start: int, taken: int, position, largest: int | None = None) -> Trace:
        part, position = self.batch.part(start, taken), _rows(position, start, taken)
        return record(self.model, part, position=position, largest=largest, **self.recorded)

    def _are_of_pairs(self, logits: Tensor, position) -> bool:
        """Whether a part has other scores than the batch, as of all pairs of its samples.

        Raises:
            ValueError: it has, and the batch may not be taken whole.
        """
        taken, classes = logits.shape
        if classes != taken:
            return False
        of_others = self._record(0, 2 if taken == 1 else 1, position).logits
        if of_others.shape[1] == classes:
            return False
        if self.or_whole:
            return True
        raise ValueError(
            "max_memory: the model has as many scores as it is given samples, like that of a batch "
            "of pairs, so that a part has others than the batch; accepted: scores [batch, classes] "
            "of each sample, or no max_memory"
        )


def _checked(x, logits: Tensor, called: str):
    """Classes [B]; None and a number stay: a tensor is checked again, for which a GPU waits."""
    found = None if x is None else resolve_target(x, logits, called)
    return x if isinstance(x, Integral) else found


def _rows(x, start: int, taken: int):
    """Of a tensor [B], those of a part; anything else is for all samples."""
    return x[start : start + taken] if isinstance(x, Tensor) and x.ndim else x


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
