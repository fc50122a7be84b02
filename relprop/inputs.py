"""What goes into a model and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from relprop.errors import UnsupportedModel
from relprop.operations import IDS, PICTURE, PIXELS, set_role


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


def leaves(inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor], int]:
    """Copies of the inputs, those of them that are numbers, and the batch size.

    Relevance flows back to the first of the numbers, or to the embeddings of ids where there are
    none; each copy is marked as what it is.
    """
    batch = batch_size(inputs)
    copies = {k: x.detach().clone() if isinstance(x, Tensor) else x for k, x in inputs.items()}
    tensors = {k: x for k, x in copies.items() if isinstance(x, Tensor)}
    numbers = [x for k, x in tensors.items() if x.is_floating_point() and "mask" not in k]
    for x in tensors.values():
        if not x.is_floating_point():
            set_role(x, IDS)
    if numbers:
        set_role(numbers[0].requires_grad_(), PICTURE if numbers[0].ndim == 4 else PIXELS)
    elif next(iter(tensors.values())).ndim > 3:
        first = next(iter(tensors.values()))
        raise ValueError(
            f"inputs have type {first.dtype} and shape {list(first.shape)}; accepted: pictures "
            "[B, C, H, W] of floats (pixels.float()), or ids [B, N] of a text"
        )
    return copies, numbers, batch


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
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UnsupportedModel(f"the model returns {shape}; accepted: logits [batch, classes]")
    return logits
