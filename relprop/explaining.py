"""What the engine is for: which inputs made the model decide for a class."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor, nn

from relprop.asked import resolve_target
from relprop.batching import (
    LARGEST,
    Batch,
    check_memory,
    equal_parts,
    measure_sample,
    output_of_part,
)
from relprop.errors import TooLarge
from relprop.explanation import Explanation, joined
from relprop.from_trace import check_method, explain_trace
from relprop.methods import METHODS
from relprop.recording.model_io import check_position
from relprop.recording.run import names_of
from relprop.trace import Trace, record


def explain(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Tensor],
    target: int | Tensor | None = None,
    method: str = "transformer_attribution",
    *,
    against: int | Tensor | None = None,
    output: Callable[[object], Tensor] | None = None,
    position: int | Tensor | None = None,
    learned: Sequence[str] = (),
    max_memory: int | None = None,
    **options,
) -> Explanation:
    """Explain a batch: the relevance of every token for ``target``.

    On a CPU a batch of which one tensor would exceed 32 MiB is taken in parts, which is faster: a
    first call of the model breaks off at that tensor, others follow. A batch whose scores are of
    all pairs of its samples is taken whole. To have the model called once, with the whole batch:
    ``relprop.explain_trace(relprop.record(model, inputs))``.

    Args:
        inputs: a tensor or a mapping of keyword tensors.
        target: None for the predicted class, one class, or a tensor [B].
        method: a name in ``relprop.METHODS``.
        against: a class or [B]: explains y_target - y_against, why this rather than that.
        output, position, learned: what is explained, and what else is a source
            (:func:`relprop.record`).
        max_memory: bytes, beyond the model's own, that a batch may take, about; a larger batch is
            explained in parts, down to one sample at a time (and one sample is recorded once more,
            to see what it takes). Of several inputs it must be clear which are one for each sample:
            the first, ``*_ids``, ``attention_mask``, ``pixel_values``, ``inputs_embeds``, and what
            has a row for each of a text's tokens.
        options: ``start_layer``, ``rules``, ``eps``, ``normalize_rows``, ``precision``, ``level``,
            ``lm_head`` (:class:`relprop.methods.Options`).

    >>> import relprop, timm, torch
    >>> model = timm.create_model("vit_tiny_patch16_224")
    >>> explanation = relprop.explain(model, torch.rand(2, 3, 224, 224))
    >>> explanation.heatmap(224).shape
    torch.Size([2, 224, 224])
    """
    check_method(method, options)  # before the forward pass
    batch = Batch(inputs)
    position = check_position(position, batch.size)
    recorded = {"output": output, "learned": names_of(learned)}
    size, unclear = batch.size, batch.indivisible
    # Of methods that came from outside it is not known whether they look at one sample at a time,
    # and of an output whether samples are coupled in it.
    apart = unclear is None and output is None and not recorded["learned"]
    largest = LARGEST if apart and METHODS[method].frees_graph else None
    if max_memory is not None:
        check_memory(max_memory)
        if unclear is not None:
            raise ValueError(
                f"max_memory: it is not clear whether inputs {unclear!r} are one for each of the "
                f"{size} samples or for all; accepted: a batch of another size, or no max_memory"
            )
        if output is not None:
            recorded["output"] = functools.partial(output_of_part, output)
        size = max(1, max_memory // measure_sample(model, batch, position, recorded))
    with torch.inference_mode(False):  # what comes out may be part of a loss
        parts = _Parts(model, batch, method, size, largest, max_memory is None, recorded)
        return parts.explain(target, against, position, options)


@dataclass
class _Parts:
    """``size`` samples at a time, or fewer where a tensor had more than ``largest`` bytes.

    ``or_whole``: all of them where they cannot be parted, which is an error otherwise.
    """

    model: nn.Module
    batch: Batch
    method: str
    size: int
    largest: int | None
    or_whole: bool
    recorded: dict

    def explain(self, target, against, position, options: dict) -> Explanation:
        parts: list[Explanation] = []
        start, batch = 0, self.batch.size
        while start < batch:
            taken = min(self.size, batch - start)
            try:
                trace = self._record(start, taken, position, self.largest if taken > 1 else None)
            except TooLarge as tensor:  # seen in the first block, so that little is lost
                most = max(1, taken * LARGEST // tensor.nbytes)
                self.size = equal_parts(batch - start, most)
                continue
            if start == 0 and taken < batch and trace.logits.shape[1] == taken:
                del trace  # one recording at a time
                if self._are_of_pairs(taken, position):
                    self.size, self.largest = batch, None
                    continue
                trace = self._record(start, taken, position)
            if start == 0:  # wrong ones are found before hours of work
                of_all = trace.logits[:1].expand(batch, -1)
                target, against = (
                    _checked(x, of_all, name)
                    for name, x in (("target", target), ("against", against))
                )
            # A user's method may ask more of the trace than the methods that it is made of.
            trace.single_use = METHODS[self.method].frees_graph
            of_part, other = (_rows(x, start, taken) for x in (target, against))
            parts.append(explain_trace(trace, of_part, self.method, against=other, **options))
            del trace  # one recording at a time: it is gone before the next
            start += taken
        return joined(parts)

    def _record(self, start: int, taken: int, position, largest: int | None = None) -> Trace:
        part, position = self.batch.part(start, taken), _rows(position, start, taken)
        return record(self.model, part, position=position, largest=largest, **self.recorded)

    def _are_of_pairs(self, scores: int, position) -> bool:
        """Whether a part of as many samples as scores has others than the batch, as of all pairs.

        Raises:
            ValueError: it has, and the batch may not be taken whole.
        """
        if self._record(0, 2 if scores == 1 else 1, position).logits.shape[1] == scores:
            return False
        if self.or_whole:
            return True
        raise ValueError(
            "max_memory: the model has as many scores as it is given samples, like that of a batch "
            "of pairs, so that a part has others than the batch; accepted: scores [batch, classes] "
            "of each sample, or no max_memory"
        )


def _checked(x, logits: Tensor, called: str):
    """Classes [B]; None and a number stay: a tensor is checked again, for which a GPU waits."""
    found = None if x is None else resolve_target(x, logits, called)
    return x if isinstance(x, Integral) else found


def _rows(x, start: int, taken: int):
    """Of a tensor [B], those of a part; anything else is for all samples."""
    return x[start : start + taken] if isinstance(x, Tensor) and x.ndim else x
