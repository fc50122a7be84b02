"""How much memory explanations take, and parts of a batch and of the classes that fit into it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from relprop.inputs import batch_size
from relprop.trace import Trace, forward

MAX_MEMORY = 2 * 2**30  # bytes, of the backward pass of many classes together
# Of a backward pass: tensors of the size of the largest one that live at the same time.
AT_ONCE = 6
# Bytes of a tensor in a CPU's memory. A larger one is never used again once it is freed: the malloc
# of Linux (glibc's DEFAULT_MMAP_THRESHOLD_MAX) gives it back to the kernel, which then clears every
# page of the next one, and that takes longer than most of what a walk does with it.
LARGEST = 32 * 2**20
# Inputs of which each sample has its own row, as Hugging Face names them; *_ids are, too.
OF_SAMPLES = ("attention_mask", "pixel_values", "inputs_embeds")


def check_memory(max_memory: int) -> None:
    """A ValueError where ``max_memory`` is no number of bytes."""
    if not isinstance(max_memory, int) or max_memory < 0:
        raise ValueError(f"max_memory is {max_memory!r}; accepted: a whole number of bytes")


def measure_sample(model: nn.Module, inputs: Tensor | Mapping[str, Tensor]) -> int:
    """Bytes that recording the first sample and its backward pass take, beyond the model's."""
    kept = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x.detach()  # an output that its own graph keeps would never be freed

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        recorded = forward(model, samples(inputs, 0, 1))
    trace = Trace(*recorded)  # without hooks, which torch.func in a rule does not take
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(kept.values()) + memory_of_walk(trace)


def memory_of_walk(trace: Trace) -> int:
    """Bytes that the gradient and the relevance of one class take, about.

    A gradient and a relevance map for each attention map (and one more while padding is taken out),
    and the temporaries of a rule: those of an attention map, or of the widest layer, four times the
    stream.
    """
    maps = trace.attention_nbytes
    copies = 2 if trace.valid is None else 3
    return copies * sum(maps) + AT_ONCE * max(max(maps), 4 * trace.stream_nbytes)


def samples(
    inputs: Tensor | Mapping[str, Tensor], start: int, size: int
) -> Tensor | dict[str, Tensor]:
    """``size`` samples of a batch; tensors of another first dimension are for all of them."""
    part = slice(start, start + size)
    if isinstance(inputs, Tensor):
        return inputs[part]
    batch = batch_size(inputs)
    return {
        name: x[part] if isinstance(x, Tensor) and len(x) == batch else x
        for name, x in inputs.items()
    }


def indivisible(inputs: Tensor | Mapping[str, Tensor]) -> str | None:
    """Name of the first input that may not be one row per sample; None if a batch can be split.

    After the first tensor, those of as many rows as samples (it may be as many heads or tokens),
    unless a name, or the first tensor's shape, says what they are; and lists of that length.
    """
    batch = batch_size(inputs)
    if isinstance(inputs, Tensor) or batch == 1:
        return None
    first = next(name for name, x in inputs.items() if isinstance(x, Tensor))
    rows = inputs[first].shape[:2]  # [B, N]
    for name, x in inputs.items():
        if not isinstance(x, (Tensor, list, tuple)) or len(x) != batch:
            continue
        of_samples = name == first or name.endswith("_ids") or name in OF_SAMPLES
        # As one number, or a few, of each token; unlike [H, N, N], of as many heads as samples.
        if isinstance(x, Tensor) and rows[0] != rows[1] and x.shape[:2] == rows:
            of_samples |= x.shape[2:3] != rows[1:]
        if not isinstance(x, Tensor) or not of_samples:
            return name
        if name == "attention_mask" and x.shape == (batch, batch) and not _is_padding(x):
            return name
    return None


def _is_padding(mask: Tensor) -> bool:
    """True if an [N, N] mask marks padding in N texts, False if it is a token-by-token mask.

    Padding is at one end of each text, and hardly ever is there a text of every length.
    """
    kept = mask.bool().long()
    at_one_end = (kept.diff(dim=1) != 0).sum(dim=1) <= 1
    every_length = torch.arange(1, len(kept) + 1, device=kept.device)
    return bool(at_one_end.all()) and not torch.equal(kept.sum(dim=1).sort().values, every_length)


def equal_parts(samples: int, most: int) -> int:
    """Samples of a part, ``most`` or fewer, so that all parts are of about the same size."""
    return math.ceil(samples / math.ceil(samples / most))
