"""How much memory explanations take, and parts of a batch and of the classes that fit into it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from relprop.recording.model_io import batch_size
from relprop.recording.run import forward
from relprop.trace import Trace

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


class Batch:
    """Inputs of a model, as a batch that may be taken apart."""

    def __init__(self, inputs: Tensor | Mapping[str, Tensor]) -> None:
        self.inputs, self.size = inputs, batch_size(inputs)

    def part(self, start: int, size: int) -> Tensor | dict[str, Tensor]:
        """``size`` samples; tensors of another first dimension are for all of them."""
        rows = slice(start, start + size)
        if isinstance(self.inputs, Tensor):
            return self.inputs[rows]
        return {
            name: x[rows] if isinstance(x, Tensor) and len(x) == self.size else x
            for name, x in self.inputs.items()
        }

    @property
    def indivisible(self) -> str | None:
        """Name of the first input that may not be one row per sample; None if it can be split.

        After the first tensor, those of as many rows as samples (it may be as many heads or
        tokens), unless a name, or the first tensor's shape, says what they are; and lists of that
        length.
        """
        if isinstance(self.inputs, Tensor) or self.size == 1:
            return None
        first = next(name for name, x in self.inputs.items() if isinstance(x, Tensor))
        rows = self.inputs[first].shape[:2]  # [B, N]
        for name, x in self.inputs.items():
            if not isinstance(x, (Tensor, list, tuple)) or len(x) != self.size:
                continue
            of_samples = name == first or name.endswith("_ids") or name in OF_SAMPLES
            # As one number, or a few, of each token; unlike [H, N, N], of as many heads as samples.
            if isinstance(x, Tensor) and rows[0] != rows[1] and x.shape[:2] == rows:
                of_samples |= x.shape[2:3] != rows[1:]
            if not isinstance(x, Tensor) or not of_samples:
                return name
            square = x.shape == (self.size, self.size)
            if name == "attention_mask" and square and not _is_padding(x):
                return name
        return None


def measure_sample(model: nn.Module, batch: Batch, position=None, recorded: dict | None = None):
    """Bytes that recording the first sample and its backward pass take, beyond the model's.

    ``position``, ``recorded``: what :func:`relprop.record` takes.
    """
    kept = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x.detach()  # an output that its own graph keeps would never be freed

    position = position[:1] if isinstance(position, Tensor) and position.ndim else position
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        found = forward(model, batch.part(0, 1), position=position, **(recorded or {}))
    trace = Trace(*found)  # without hooks, which torch.func in a rule does not take
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(kept.values()) + memory_of_walk(trace)


def output_of_part(output: Callable[[object], Tensor], returned: object) -> Tensor:
    """``output`` of what a model returns for a part of a batch; a ValueError where it fails."""
    try:
        return output(returned)
    except (IndexError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"output= fails on a part of the batch ({reason}); accepted with max_memory: a "
            "function of any number of samples, as lambda o: o.logits[:, 3]; or no max_memory"
        ) from error


def memory_of_walk(trace: Trace) -> int:
    """Bytes that the gradient and the relevance of one class take, about.

    A gradient and a relevance map of the attention maps of a block, and the temporaries of a rule:
    those of the largest tensor.
    """
    largest = max(trace.attention_nbytes, default=0)
    return max(1, 4 * largest + AT_ONCE * trace.widest_nbytes)


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
