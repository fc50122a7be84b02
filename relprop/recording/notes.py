"""What a recording notes of its calls: what heads may read, and where sources begin."""

from __future__ import annotations

import re
from dataclasses import replace

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from relprop.recording import operations as ops
from relprop.recording.graph import Call
from relprop.recording.record import Embedding, Recording, Stream
from relprop.recording.refusals import check_batch_first
from relprop.recording.tags import SCORES, set_tag, tag


def note(recording: Recording, call: Call, args, kwargs, streams, output: Tensor) -> None:
    """Note what heads may read, and the layers that a source begins with."""
    operation = call.operation
    if len(streams) > 1 and recording.batch_size > 1:
        recording.is_coupled |= _may_couple(call, streams, output, recording.batch_size)
    if call.product is not None:
        place, maps = get_gradient_edge(output), (call.product.map,)
        recording.maps[maps[0]].products.append((place, output.shape, call.product))
        recording.streams[output.grad_fn] = Stream(output, tag(output), True, maps, call.product)
    elif operation in (ops.ADD, ops.SHIFTED) and tag(output).role != SCORES:
        _note_sum(recording, call, streams, output)
    elif operation in (ops.PATCH_EMBEDDING, ops.LINEAR):
        _note_embedding(recording, operation, args, kwargs, output)


def _may_couple(call: Call, streams, output: Tensor, batch: int) -> bool:
    """Whether samples may be combined with others, as in all pairs of them, x @ y.T."""
    if call.operation is ops.MATMUL and output.ndim == 2:
        return True
    if call.operation is ops.EINSUM:  # the first letters are those of samples
        return len({part.strip()[:1] for part in re.split(",|->", call.args[0])}) > 1
    aligned = all(x.ndim == output.ndim and len(x) == len(output) for x in streams)
    return not aligned or len(output) % batch != 0


def _note_sum(recording: Recording, call: Call, streams, output: Tensor) -> None:
    known = tag(output)
    of_tokens = output.ndim > 2 and not known.mixed and output.shape in call.shapes
    is_read = bool(call.maps) or (known.depth > 0 and of_tokens)
    residual = next(
        (x for x, of_map in zip(streams, call.pending, strict=False) if not of_map), None
    )
    where = None if residual is None else (get_gradient_edge(residual), residual.shape)
    found = Stream(output, known, is_read, call.maps, residual=where)
    if len(streams) == 2 and known.depth and of_tokens:
        older, newer = sorted(streams, key=lambda x: tag(x).number)
        found.base, found.branch = (newer, older) if residual is newer else (older, newer)
    recording.streams[output.grad_fn] = found
    recording.cuts.append(found)
    if call.operation is ops.ADD and known.form:  # token and position embedding
        recording.sources[next(iter(known.sources))].sums.append(output)


def _note_embedding(recording: Recording, operation, args, kwargs, output: Tensor) -> None:
    """Of a first layer on a source: there its tokens begin."""
    names = tag(args[0]).sources
    source = recording.sources[next(iter(names))]
    is_first = not source.embeddings and not source.is_text
    if len(names) > 1 or not (operation is ops.PATCH_EMBEDDING or is_first):
        return
    if operation is ops.PATCH_EMBEDDING:
        accepted = ", [batch, patches, values] or [batch, channels, height, width]"
        what = "a patch embedding of a tensor"
        check_batch_first(what, args[0].shape, recording.batch_size, accepted)
    convolved = args[1].ndim > 2
    options = dict(zip(("stride", "padding", "dilation"), args[3:6], strict=False)) | kwargs
    kernel = tuple(args[1].shape[2:]) if convolved else None
    source.embeddings.append(Embedding(args[0], output, kernel, options))
    set_tag(output, replace(tag(output), form=2))
