"""What goes into a model and what comes out of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from relprop.errors import UnsupportedModel, described
from relprop.recording.refusals import check_batch_first
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
            of_name = f" {name!r}" if isinstance(inputs, Mapping) else ""
            raise ValueError(
                f"inputs{of_name} have shape {list(x.shape)}; accepted: a batch [B, N] or [B, N, "
                "...], B > 0"
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
        check_batch_first(f"inputs {name!r}", x.shape, recorder.recording.batch_size)
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
        return check_scores(_one_of(output, 2, "[batch, classes]"), "the model returns")
    logits = _one_of(output, 3, "[batch, tokens, vocabulary]")
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        raise UnsupportedModel("position is of logits [batch, tokens, vocabulary]; there are none")
    batch, length = logits.shape[:2]
    places = torch.arange(length, device=logits.device)
    place = torch.as_tensor(check_position(position, batch), device=logits.device).expand(batch)
    kept = torch.ones(batch, length, dtype=torch.bool, device=logits.device)
    if mask is not None and mask.shape == kept.shape:
        kept = mask.bool()
    last = (kept * (places + 1)).argmax(dim=1)
    place = torch.where(place < 0, place + 1 + last, place)
    is_token = (places == place[:, None]) & kept
    for sample in (~is_token.any(dim=1)).nonzero()[:1, 0].tolist():
        tokens = kept[sample].nonzero()[:, 0].tolist()
        raise ValueError(
            f"position is {described(position)}, where sample {sample} has no token; accepted: "
            f"{tokens[0]} to {tokens[-1]}, or -1 (the last) to {tokens[0] - tokens[-1] - 1}"
            if tokens
            else f"attention_mask has no token of sample {sample}; accepted: one or more"
        )
    return logits[torch.arange(batch, device=logits.device), place]


def check_position(position, batch: int) -> int | Tensor | None:
    """Where scores are, None, one number or a tensor [B]; a ValueError where it is none."""
    if position is None:
        return None
    with contextlib.suppress(TypeError, ValueError, RuntimeError):
        found = torch.as_tensor(position)
        is_whole = found.dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
        if is_whole and found.shape in ((), (batch,)):
            return found.long()
    raise ValueError(
        f"position is {described(position)}; accepted: a whole number, or {batch} of them"
    )


def _one_of(output, dimensions: int, accepted: str):
    """The logits in what a model returns: ``.logits``, or of a tuple the one of so many dimensions.

    What it returns where there are none.
    """
    logits = getattr(output, "logits", output)
    if not isinstance(logits, (tuple, list)):
        return logits
    known = [x for x in logits if isinstance(x, Tensor) and x.ndim == dimensions]
    if len(known) > 1:
        shapes = " and ".join(str(list(x.shape)) for x in known)
        raise UnsupportedModel(
            f"the model returns {shapes}: which of them are its logits is not known; "
            f"accepted: one {accepted}, or .logits; wrap the model to return them alone"
        )
    return known[0] if known else logits


def check_scores(logits, given: str) -> Tensor:
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UnsupportedModel(
            f"{given} {shape}; accepted: logits [batch, classes]; of logits [batch, tokens, "
            "vocabulary] position= says where (-1: at the last token), and of anything else "
            "output= makes scores [batch, classes]"
        )
    return logits
