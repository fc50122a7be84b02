"""Where samples and patches lie in what was recorded: shapes alone leave it open."""

from __future__ import annotations

import torch
from torch import Tensor

from relprop.errors import UnsupportedModel
from relprop.recorder import Recording
from relprop.rules import PAPER


def check_batch_first(recording: Recording, logits: Tensor) -> None:
    """Follow sample 1 back where its dimension is not known."""
    batch, last, stream = recording.batch_size, recording.attention[-1], recording.stream
    unclear = [last] if last.ndim == 3 and last.shape[0] > batch else []
    if stream is not None and stream.shape[0] == stream.shape[1]:
        unclear.append(stream)
    if batch == 1 or not unclear:
        return
    start = torch.zeros_like(logits).index_fill_(0, torch.tensor(1, device=logits.device), 1)
    found = torch.autograd.grad(logits, unclear, start, retain_graph=True, allow_unused=True)
    for x, f in zip(unclear, found, strict=True):
        if f is not None and f.unflatten(0, (batch, -1))[torch.arange(batch) != 1].any():
            raise UnsupportedModel(
                f"in a tensor of shape {list(x.shape)} the batch of {batch} is not first: "
                "tokens, or heads, come before it; accepted: [batch, tokens, channels] and "
                "attention [batch, heads, tokens, tokens] or [batch * heads, tokens, tokens]"
            )


def check_patch_order(recording: Recording) -> None:
    """Patch i must be token ``prefix`` + i of the first block: rows of the grid, one by one.

    Half of these tokens, drawn at random, may depend on these patches alone.
    """
    values, (rows, columns) = recording.values, recording.grid
    tokens = recording.attention[0].shape[-1]
    prefix = tokens - rows * columns
    half = torch.rand(rows * columns, generator=torch.Generator().manual_seed(0)) < 0.5
    # [B, H, N, d] or [B*H, N, d]; [B, N, H, d] is how an einsum may have it.
    for dimension in [d for d in (-2, -3) if prefix >= 0 and values.shape[d] == tokens]:
        start = torch.zeros(tokens, device=values.device, dtype=values.dtype)
        start[prefix:] = half
        start = start.view(-1, *[1] * (-1 - dimension)).expand_as(values)
        if not _dependence(recording, start).flatten(2)[:, :, ~half].any():
            return
    raise UnsupportedModel(
        f"the {rows} x {columns} patches are not the last tokens of the first block, row by row, "
        "or are mixed before it: where each of them went is not known; accepted: class, "
        "distillation and register tokens before the patches"
    )


def _dependence(recording: Recording, start: Tensor) -> Tensor:
    """Above 0 for the patches [B, D, rows, columns] that values with ``start`` above 0 depend on.

    A walk back that spares itself the matrix products: all channels of a token depend on all.
    """
    token_by_token = {"linear": _linear, "add": _both, "mul": _both}
    recording.backward.rules, recording.backward.eps = PAPER | token_by_token, 0.0
    (found,) = torch.autograd.grad(
        recording.values, recording.patches, start, retain_graph=True, allow_unused=True
    )
    return torch.zeros_like(recording.patches) if found is None else found


def _linear(relevance: Tensor, output: Tensor, input: Tensor, *weights, eps: float) -> Tensor:
    return relevance.sum(dim=-1, keepdim=True).expand_as(input)


def _both(relevance: Tensor, output: Tensor, *streams, eps: float, **options) -> tuple:
    return tuple(relevance.sum_to_size(x.shape) if torch.is_tensor(x) else None for x in streams)
