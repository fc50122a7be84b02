"""How much memory explanations take, and parts of a batch and of the classes that fit into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from relprop.trace import Trace, record

# Of a walk back: tensors of the size of the largest one that live at the same time.
AT_ONCE = 6


def memory_of_sample(model: nn.Module, inputs: Tensor | Mapping[str, Tensor]) -> int:
    """Bytes that the recording of the first sample and its walk back take, beyond the model's."""
    kept = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    first = next(parts(inputs, 1))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        trace = record(model, first)
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(kept.values()) + memory_of_walk(trace)


def memory_of_walk(trace: Trace) -> int:
    """Bytes that the gradient and the relevance of one class take, about.

    A gradient and a relevance map for each attention map, and the temporaries of a rule: those of
    an attention map, or of the widest layer, four times the stream.
    """
    maps = [a.nbytes for a in trace.attention]
    return 2 * sum(maps) + AT_ONCE * max(max(maps), 4 * trace.stream_nbytes)


def parts(inputs: Tensor | Mapping[str, Tensor], size: int) -> Iterator[Tensor | dict[str, Tensor]]:
    """A batch in parts of ``size`` samples."""
    if isinstance(inputs, Tensor):
        yield from inputs.split(size)
        return
    batch = next(x.shape[0] for x in inputs.values() if isinstance(x, Tensor))
    for start in range(0, batch, size):
        yield {
            name: x[start : start + size] if isinstance(x, Tensor) else x
            for name, x in inputs.items()
        }
