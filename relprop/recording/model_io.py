"""What goes into a model and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from relprop.errors import UnsupportedModel
from relprop.recording.refusals import check_first
from relprop.recording.tags import IDS, PICTURE, PIXELS

if TYPE_CHECKING:
    from relprop.recording.recorder import Recorder


def batch_size(inputs: Tensor | Mapping[str, Tensor]) -> int:
    """That of a model's inputs; a ValueError where they are no batch."""
    keywords = inputs if isinstance(inputs, Mapping) else {"": inputs}
    tensors = {name: x for name, x in keywords.items() if isinstance(x, Tensor)}
    if not tensors:
        raise ValueError("inputs hold no tensor; accepted: a tensor or a mapping of tensors")
    for name, x in tensors.items():
        if x.ndim < 2 or x.shape[0] == 0:
            raise ValueError(
                f"inputs {name} have shape {list(x.shape)}; a batch is [B, ...], B > 0"
            )
    return next(iter(tensors.values())).shape[0]


def leaves(inputs: dict[str, Tensor], recorder: Recorder) -> dict[str, Tensor]:
    """Copies of the inputs, made known to the recorder.

    Relevance flows back to numbers that are no mask, and to the embeddings of ids.
    """
    copies = {k: x.detach().clone() if isinstance(x, Tensor) else x for k, x in inputs.items()}
    tensors = {k: x for k, x in copies.items() if isinstance(x, Tensor)}
    ids = [name for name, x in tensors.items() if not x.is_floating_point()]
    numbers = [name for name, x in tensors.items() if name not in ids and "mask" not in name]
    for name in ids:
        recorder.mark(tensors[name], IDS, name)
    for name in numbers:
        x = tensors[name]
        check_first(name, x.shape, recorder.recording.batch_size)
        recorder.add_source(name, x, PICTURE if x.ndim == 4 else PIXELS)
    texts = [name for name in ids if name.endswith("input_ids")]
    recorder.texts = frozenset(texts if texts or numbers else ids[:1])
    first = next(iter(tensors.values()))
    if not numbers and first.ndim > 3:
        raise ValueError(
            f"inputs have type {first.dtype} and shape {list(first.shape)}; accepted: pictures "
            "[B, C, H, W] of floats (pixels.float()), or ids [B, N] of a text"
        )
    return copies


def scores_of(output, choose: Callable | None, position, mask: Tensor | None) -> Tensor:
    """What is explained, scores [B, C], of what a model returns.

    Args:
        choose: makes them of ``output``; None: ``output`` has them.
        position: where in logits [B, N, V] they are, one number or [B]; a negative one counts from
            the last token that ``mask`` [B, N] has as no padding.
    """
    if choose is not None:
        return check_scores(choose(output), "output= returns")
    if position is None:
        return logits_of(output)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        raise UnsupportedModel("position is of logits [batch, tokens, vocabulary]; there are none")
    batch, length = logits.shape[:2]
    place = torch.as_tensor(position, device=logits.device).expand(batch)
    last = torch.full_like(place, length - 1)
    if mask is not None and mask.shape == (batch, length):
        last = (mask.bool() * torch.arange(1, length + 1, device=logits.device)).argmax(dim=1)
    place = torch.where(place < 0, place + 1 + last, place)
    if bool(((place < 0) | (place >= length)).any()):
        raise ValueError(f"position is {position}; accepted: {-length} to {length - 1}, or [B]")
    return logits[torch.arange(batch, device=logits.device), place]


def logits_of(output) -> Tensor:
    """The logits in what a model returns: a tensor, ``.logits``, or the one [B, C] in a tuple."""
    logits = getattr(output, "logits", output)
    if isinstance(logits, (tuple, list)):
        matrices = [x for x in logits if isinstance(x, Tensor) and x.ndim == 2]
        if len(matrices) > 1:
            shapes = " and ".join(str(list(x.shape)) for x in matrices)
            raise UnsupportedModel(
                f"the model returns {shapes}: which of them are its logits is not known; "
                "accepted: one [batch, classes], or .logits; wrap the model to return them alone"
            )
        logits = matrices[0] if matrices else logits
    return check_scores(logits, "the model returns")


def check_scores(logits, given: str) -> Tensor:
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UnsupportedModel(
            f"{given} {shape}; accepted: logits [batch, classes]; of logits [batch, tokens, "
            "vocabulary] position= says where (-1: at the last token), and of anything else "
            "output= makes scores [batch, classes]"
        )
    return logits
