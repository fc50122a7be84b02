"""What methods ask of attention maps: whole samples, tokens as keys, values."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from relprop.errors import UnsupportedModel
from relprop.recording.record import AttentionMap, Recording
from relprop.recording.refusals import check_batch_first
from relprop.rules.weights import Weights, to_values
from relprop.walks.backward import Backward
from relprop.walks.products import Product
from relprop.walks.starts import Starts


def check_maps(backward: Backward, starts: Starts) -> None:
    """Raises UnsupportedModel where maps are not to be read sample by sample."""
    maps, batch = backward.recording.maps, backward.recording.batch_size
    if not maps:
        raise UnsupportedModel(
            "no attention map was seen between the input and the logits: the model has no "
            "attention in torch functions (is it scripted?); accepted: a method that needs "
            "none, such as attnlrp and lrp"
        )
    for x in maps:
        x.check(batch)
    unclear = [x.tensor for x in maps[-1:] if x.tensor.ndim == 3 and len(x.tensor) > batch]
    for read in starts.tensors:
        check_batch_first("the head reads tokens", read.shape, batch, ", [batch, tokens, channels]")
    unclear += [read for read in starts.tensors if read.shape[0] == read.shape[1]]
    if batch > 1 and unclear:
        check_samples_apart(backward, unclear)


def check_samples_apart(backward: Backward, unclear: Sequence[Tensor]) -> None:
    """Follow sample 1 back into tensors [B, ...] or [B*H, ...] whose first dimension is unclear."""
    batch = len(backward.logits)
    start = torch.zeros_like(backward.logits)
    start[1] = 1
    found = backward.pull([backward.logits], [start], unclear, None)
    for x, f in zip(unclear, found, strict=True):
        if f.unflatten(0, (batch, -1))[torch.arange(batch) != 1].any():
            raise UnsupportedModel(
                f"in a tensor of shape {list(x.shape)} the batch of {batch} is not first: "
                "tokens, or heads, come before it; accepted: [batch, tokens, channels] and "
                "attention [batch, heads, tokens, tokens] or [batch * heads, tokens, tokens]"
            )


def check_factors(recording: Recording, product: Product) -> None:
    """Raises UnsupportedModel where a map of a product is used in several blocks, or has no V."""
    for number, x in enumerate(recording.maps):
        if x.again:
            raise UnsupportedModel(
                "an attention map is used in a later block again, and maps are multiplied block by "
                "block; accepted: a map for each block; or the methods attnlrp and lrp"
            )
        if x.apart:
            raise _apart(x.tensor)
        if x.values is None and product.takes(number, x):
            raise UnsupportedModel(
                f"the values of attention map {number}, {list(x.tensor.shape)}, are constants: to "
                "which tokens it leads is not known; accepted: values that depend on the input; or "
                "the methods attnlrp, lrp and bimodal_attention"
            )


def check_taken_up(starts: Starts) -> None:
    """Raises UnsupportedModel where the head reads attention that no sum has taken up in all."""
    for start in starts.streams:
        if start.tag.apart:
            raise _apart(start.tensor)


def pooling_maps(recording: Recording, numbers: Collection[int]) -> frozenset[int]:
    """Of the maps with these numbers those that pool: fewer queries than keys.

    Their queries are parameters, or tokens of the same set as their keys, as class attention has.

    Raises:
        UnsupportedModel: there are none, or what they attend to are constants.
    """
    found = set()
    for number in numbers:
        x = recording.maps[number]
        n, m = (x.tensor.shape[i] for i in x.order[-2:])
        alike = x.query is None or x.key is not None and x.query.home == x.key.home
        if n < m and alike and x.values is not None:
            found.add(number)
    if not found:
        raise UnsupportedModel(
            "the head does not read what attention has pooled, by a learned query or by class "
            "attention; accepted: a model that pools so, such as model.pool=attention, timm's "
            "global_pool='map' and CaiT; or the method raw_attention"
        )
    return frozenset(found)


def _apart(x: Tensor) -> UnsupportedModel:
    return UnsupportedModel(
        f"what {list(x.shape)} is made of has attention in some channels or streams alone, and no "
        "sum has taken it up: which part of a token it is, is not known; accepted: x + attention, "
        "or the sum of a stack; or a method that follows no tokens, such as attnlrp and lrp"
    )


def check_whole(recording: Recording) -> None:
    """Raises UnsupportedModel where attention is within windows."""
    batch = recording.batch_size
    if any(
        x.tensor.ndim not in (3, 4) or x.canonical(x.tensor, batch).shape[0] != batch
        for x in recording.maps
    ):
        raise UnsupportedModel(
            "attention is not between whole sets of tokens, [batch, heads, tokens, tokens]; "
            "accepted: a method that follows tokens, such as generic_attention"
        )


def check_keys(backward: Backward) -> None:
    """Raises UnsupportedModel where attention is between channels.

    A channel has weight of all tokens, whichever channel it is. Where a sum has as many tokens
    as its attention map, that is known without a walk.
    """
    recording = backward.recording
    streams = [x for x in recording.streams.values() if x.product is None]
    for number, x in enumerate(recording.maps):
        *_, n, m = (x.tensor.shape[i] for i in x.order)
        taking = next((s.tensor for s in streams if number in s.maps), None)
        below = [s.tensor for s in streams if s.tag.number < x.number]
        if m == 1 or not below or taking is None or x.values is None:
            continue
        edge, shape = x.values
        if n in taking.shape[1:-1] and list(shape[1:]).count(n) < 2:
            continue
        _, output, product = x.products[0]
        *batch, _, _ = x.canonical(x.tensor, recording.batch_size)[:, 0].shape
        first, last = torch.eye(m).to(backward.logits)[[0, -1]]
        both = [to_values(product, k.expand(*batch, m), output, shape) for k in (first, last)]
        seen = [backward.pull([edge], [w], below[-1:], Weights())[0] for w in both]
        if seen[0].any() and torch.allclose(seen[0], seen[1]):
            raise UnsupportedModel(
                f"attention map {number}, {list(x.tensor.shape)}, leads from channels to "
                "channels, and weights are of tokens; accepted: attention between tokens; or "
                "the methods attnlrp and lrp"
            )


def streams_after(recording: Recording, maps: Sequence[AttentionMap]) -> list[Tensor]:
    """The stream after each block, [B, N, D], of one chain of blocks."""
    found = []
    ends = [*(x.number for x in maps[1:]), recording.count]
    for block, (x, end) in enumerate(zip(maps, ends, strict=True)):
        depth = block + 1
        below = [s for s in recording.cuts if s.tag.depth == depth and s.tag.number < end]
        if x.depth != block or not below:
            raise UnsupportedModel(
                "the model is not one chain of blocks; accepted: blocks each of which takes "
                "what the one before has made; or a method that does without, such as attnlrp"
            )
        found.append(below[-1].tensor)
    return found
