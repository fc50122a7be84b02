"""What the engine is for: which inputs made the model decide for a class."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relprop.contexts import as_if_alone
from relprop.errors import TooLarge, UnsupportedModel
from relprop.inputs import batch_size
from relprop.memory import (
    LARGEST,
    MAX_MEMORY,
    check_memory,
    equal_parts,
    indivisible,
    measure_sample,
    memory_of_walk,
    samples,
)
from relprop.methods import METHODS, Options
from relprop.sides import Side
from relprop.trace import Trace, record


@dataclass(frozen=True)
class Explanation:
    """The relevance of each token for one class a sample.

    ``relevance`` [B, tokens] of what the model was given, in its order: without class, distillation
    and register tokens, and without patches of padding alone (for ``lrp`` on images: of each
    pixel). ``target`` [B]; ``logits`` [B, C]. ``grid``: rows and columns of ``relevance`` in the
    picture, None for texts and vectors. ``sides``: where the patches lie along its height and its
    width; None where they tile it, so that rows and columns divide it evenly.
    """

    relevance: Tensor
    target: Tensor
    logits: Tensor
    grid: tuple[int, int] | None
    sides: tuple[Side, Side] | None = None

    def heatmap(self, size: int | tuple[int, int]) -> Tensor:
        """The map over the picture drawn as ``size`` (H, W): [B, H, W].

        Linear between the centres of patches, and beyond the outermost the nearest patch's. It is 0
        where no patch looks: at the end of a picture whose side is no multiple of a patch's, say,
        or between patches that are further apart than they are wide. Of a patch that lies partly
        in the padding of the model the map has the part in the picture. ValueError where the input
        is no picture.
        """
        if self.grid is None:
            raise ValueError(
                "there is no grid of patches to make a heatmap of: the input is no picture"
            )
        maps = self.relevance.unflatten(-1, self.grid)
        size = (size, size) if isinstance(size, int) else tuple(size)
        if self.sides is None:
            return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        rows, columns = (
            side.interpolation(n).to(maps) for side, n in zip(self.sides, size, strict=True)
        )
        return rows @ maps @ columns.mT


def explain(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Tensor],
    target: int | Tensor | None = None,
    method: str = "transformer_attribution",
    max_memory: int | None = None,
    **options,
) -> Explanation:
    """Explain a batch: the relevance of every token for ``target``.

    ``inputs``: a tensor or a mapping of keyword tensors. ``target``: None for the predicted class,
    one class, or a tensor [B]. ``method``: a name in ``relprop.METHODS``. ``options``:
    ``start_layer``, ``rules``, ``eps``, ``normalize_rows``, ``precision``
    (:class:`relprop.methods.Options`). ``max_memory``: bytes, beyond the model's own, that a batch
    may take, about; a larger batch is explained in parts, down to one sample at a time (and one
    sample is recorded once more, to see what it takes). Of several inputs it must be clear which
    are one for each sample: the first, ``*_ids``, ``attention_mask``, ``pixel_values``,
    ``inputs_embeds``, and what has a row for each of a text's tokens.

    On a CPU a batch of which one tensor would exceed 32 MiB is taken in parts as well, which is
    faster: a first call of the model breaks off at that tensor, others follow. To have the model
    called once, with the whole batch: ``relprop.explain_trace(relprop.record(model, inputs))``.

    >>> import relprop, timm, torch
    >>> model = timm.create_model("vit_tiny_patch16_224")
    >>> explanation = relprop.explain(model, torch.rand(2, 3, 224, 224))
    >>> explanation.heatmap(224).shape
    torch.Size([2, 224, 224])
    """
    check_method(method, options)  # before the forward pass
    size, unclear = batch_size(inputs), indivisible(inputs)
    # Of those that came from outside it is not known whether they look at one sample at a time.
    largest = LARGEST if unclear is None and METHODS[method].frees_graph else None
    if max_memory is not None:
        check_memory(max_memory)
        if unclear is not None:
            raise ValueError(
                f"max_memory: it is not clear whether inputs {unclear!r} are one for each of the "
                f"{size} samples or for all; accepted: a batch of another size, or no max_memory"
            )
        size = max(1, max_memory // measure_sample(model, inputs))
    with torch.inference_mode(False):  # what comes out may be part of a loss
        return _explain_parts(model, inputs, target, method, size, largest, options)


def _explain_parts(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Tensor],
    target: int | Tensor | None,
    method: str,
    size: int,
    largest: int | None,
    options: dict,
) -> Explanation:
    """``size`` samples at a time, or fewer where a tensor had more than ``largest`` bytes."""
    batch, parts, start = batch_size(inputs), [], 0
    while start < batch:
        taken = min(size, batch - start)
        try:
            part = samples(inputs, start, size)
            trace = record(model, part, largest=largest if taken > 1 else None)
        except TooLarge as tensor:  # seen in the first block, so that little is lost
            size = equal_parts(batch - start, max(1, taken * largest // tensor.nbytes))
            continue
        if start == 0 and target is not None:  # wrong ones are found before hours of work
            target = resolve_target(target, trace.logits[:1].expand(batch, -1))
        # A user's method may ask more of the trace than the methods that it is made of.
        trace.single_use = METHODS[method].frees_graph
        of_part = None if target is None else target[start : start + size]
        parts.append(explain_trace(trace, of_part, method, **options))
        del trace  # one recording at a time: it is gone before the next
        start += size
    return joined(parts)


def joined(explanations: Sequence[Explanation]) -> Explanation:
    """The explanation of a batch from those of its parts."""
    relevance, target, logits = (
        torch.cat([getattr(x, name) for x in explanations])
        for name in ("relevance", "target", "logits")
    )
    return Explanation(relevance, target, logits, explanations[0].grid, explanations[0].sides)


def explain_trace(
    trace: Trace,
    target: int | Tensor | None = None,
    method: str = "transformer_attribution",
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
    return explain_classes(trace, [target], method, **options)[0]


def explain_classes(
    trace: Trace,
    targets: Sequence[int | Tensor | None],
    method: str = "transformer_attribution",
    max_memory: int = MAX_MEMORY,
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

    def of_class(target: Tensor) -> Tensor:
        return METHODS[method](trace, target, chosen)

    with as_if_alone(trace.logits.device):
        targets = [resolve_target(target, trace.logits) for target in targets]
        if together < 2:
            relevance = [of_class(target) for target in targets]
        else:
            relevance = torch.vmap(of_class, chunk_size=together)(torch.stack(targets))
    return [_explanation(trace, r, t) for r, t in zip(relevance, targets, strict=True)]


def _explanation(trace: Trace, relevance: Tensor, target: Tensor) -> Explanation:
    """Of relevance of all tokens [B, N], or of the input's: padding, class token and such aside.

    Or of pixels [B, H, W].
    """
    if relevance.ndim == 3:
        grid = tuple(relevance.shape[1:])
        return Explanation(relevance.flatten(1), target, trace.logits, grid)
    if trace.valid is not None and relevance.shape == trace.valid.shape:
        relevance = relevance.masked_fill(~trace.valid, 0)
    places, entries = trace.places, relevance.shape[1]
    if entries not in (places.count, trace.tokens):
        raise UnsupportedModel(
            f"the method returned relevance of {entries} entries, and the model has {trace.tokens} "
            "tokens; accepted: one entry a token, as of all methods but lrp, which has none for "
            "inputs to which relevance does not flow back"
        )
    if entries != places.count:
        relevance = relevance[:, trace.prefix : trace.prefix + places.count]
    if places.order is not None:
        relevance = relevance[:, places.order.to(relevance.device)]
    tiled = places.sides is None or all(side.is_tiled for side in places.sides)
    sides = None if tiled else places.sides
    return Explanation(relevance, target, trace.logits, trace.grid, sides)


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
    for name in options:
        if name not in accepted:
            raise ValueError(f"unknown option {name!r}; accepted: {', '.join(accepted)}")
    return Options(**options)


def resolve_target(target: int | Tensor | None, logits: Tensor) -> Tensor:
    """The class to explain of each sample, [B].

    >>> logits = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]])
    >>> resolve_target(None, logits), resolve_target(2, logits)
    (tensor([1, 0]), tensor([2, 2]))
    """
    batch, classes = logits.shape
    if target is None:
        return logits.argmax(dim=-1)
    target = torch.as_tensor(target, device=logits.device)
    if target.is_floating_point() or target.shape not in ((), (batch,)):
        raise ValueError(
            f"target has type {target.dtype} and shape {list(target.shape)}; accepted: None, "
            f"a class or {batch} of them"
        )
    outside = target[(target < 0) | (target >= classes)]
    if outside.numel():
        raise ValueError(f"target is {outside[0].item()}; accepted: classes 0 to {classes - 1}")
    return target.long().expand(batch)
