"""Whether the weight of tokens gets down to the input past attention that does not count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from relprop.errors import UnsupportedModel
from relprop.recording.record import AttentionMap, Recording
from relprop.rules.weights import Weights
from relprop.walks.backward import Backward
from relprop.walks.products import Product

ACCEPTED = (
    "accepted: a method of all maps, such as transformer_attribution, from the first block up; or "
    "attnlrp and lrp"
)


def check_arrival(
    backward: Backward, product: Product, read: Sequence[Tensor], ends: Mapping[str, Tensor]
) -> None:
    """Raises UnsupportedModel where the maps of a product do not lead down to the input.

    A map that is left out is passed by in a residual. Where there is none, or where that is of the
    model's own tokens, none leads to the input. A ValueError where maps from ``start_layer`` up
    lead to fewer sources than all maps.
    """
    recording, maps = backward.recording, backward.recording.maps
    counted = product.counted(recording)
    watched = recording.without_residual - counted
    own = _own(recording) - counted
    several = len(ends) > 1 and (product.start_layer > 0 or product.alone)
    if not watched and not own and not several:
        return

    def reached(product: Product) -> set[str]:
        """Names of the ends that weight comes to."""
        counted = product.counted(recording)
        factors = {i: _evenly(recording, maps[i]) for i in counted}
        walk = Weights(
            factors,
            counted=counted,
            alone=product.alone,
            passing=product.passing,
            watched=watched | counted,
        )
        ones = [torch.ones_like(x) for x in read]
        arrived = backward.pull(read, ones, list(ends.values()), walk)
        _check_none(walk)
        if product.alone and not walk.came_to and not own:
            raise UnsupportedModel(
                f"attention of map {_named(counted)} is neither what the head reads, nor what "
                f"leads there; {ACCEPTED}"
            )
        return {name for name, x in zip(ends, arrived, strict=True) if bool(x.any())}

    found = reached(product)
    if product.start_layer:
        starts = range(product.start_layer - 1, -1, -1)
        lower = {start: replace(product, start_layer=start) for start in starts}
        if missing := reached(lower[0]) - found:
            deepest = next(s for s in starts if missing <= reached(lower[s]))
            raise ValueError(
                f"start_layer is {product.start_layer}; accepted: 0 to {deepest}, for no map after "
                f"these leads to {' and '.join(sorted(missing))}"
            )
    if own and found != ends.keys():
        raise _stopped(min(own), counted)


def check_residuals(
    backward: Backward,
    outputs: Sequence[Tensor | GradientEdge],
    weights: Sequence[Tensor],
    ends: Sequence[Tensor],
) -> None:
    """Raises UnsupportedModel where tokens cannot be followed down past attention, without it."""
    alone = backward.recording.without_residual
    if not alone and not _own(backward.recording):
        return
    walk = Weights(watched=alone)
    ones = [backward.logits.new_ones(w.shape) for w in weights]  # the same for all classes
    arrived = backward.pull(outputs, ones, ends, walk)
    _check_none(walk)
    if not any(bool(x.any()) for x in arrived):
        raise UnsupportedModel(
            "the tokens that the method follows are the model's own, such as learned queries, or "
            f"attention that is added to constants, and none of the input; {ACCEPTED}"
        )


def _own(recording: Recording) -> set[int]:
    """Numbers of the maps whose queries, or residual, are the model's own tokens."""
    own = {i for i, x in enumerate(recording.maps) if not x.leads_from_input}
    return own | recording.to_constants


def _evenly(recording: Recording, x: AttentionMap) -> Tensor:
    """C_b [*, n, m] of which every row has the same everywhere, and sums to 1."""
    A = x.canonical(x.tensor.detach(), recording.batch_size)[:, 0]
    return torch.full_like(A, 1 / A.shape[-1])


def _check_none(walk: Weights) -> None:
    if lost := walk.came_to - walk.counted:
        raise UnsupportedModel(
            f"attention map {max(lost)} has no residual that leads past it to the input, "
            f"and the method leaves this map out; {ACCEPTED}"
        )


def _stopped(at: int, counted: frozenset[int]) -> UnsupportedModel:
    return UnsupportedModel(
        f"attention of map {_named(counted)} does not lead from what the head reads to all of the "
        "input: between them are queries of the model's own, or constants in place of a residual "
        f"(map {at}); {ACCEPTED}"
    )


def _named(maps: frozenset[int]) -> str:
    return " and ".join(str(i) for i in sorted(maps))
