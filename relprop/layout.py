"""Where samples, patches and tokens lie in what was recorded: shapes alone leave it open."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge

from relprop.errors import UnsupportedModel
from relprop.places import Places, by_sample, spread
from relprop.recording import Recording
from relprop.rules import PAPER, nothing


def check_samples_apart(recording: Recording, logits: Tensor) -> None:
    """Follow sample 1 back where its dimension is not known."""
    batch, last = recording.batch_size, recording.attention[-1]
    unclear = [last] if last.ndim == 3 and last.shape[0] > batch else []
    unclear += [x for x in recording.sums[-1] if x.shape[0] == x.shape[1]]
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


def prefix_of(recording: Recording, places: Places) -> int:
    """How many tokens come before the patches, of which patch i is token ``prefix`` + i.

    After those of a text or a sequence there may be others as well. Raises UnsupportedModel where
    patches are elsewhere, in another order or mixed.
    """
    count, tokens = places.count, recording.attention[0].shape[-1]
    last, is_picture = tokens - count, places.sides is not None
    for prefix in [last] if is_picture else dict.fromkeys((last, 0)):
        for seen in _seen_by_tokens(recording, prefix, count) if last >= 0 else ():
            if _one_to_one(seen):
                return prefix
            if not is_picture and last == 0 and all(some.all() for some in seen):
                return prefix  # as many tokens, each of which depends on all that is embedded
    what, order = f"{count} tokens of the input", "in its order"
    if is_picture:
        rows, columns = (side.count for side in places.sides)
        what, order = f"{rows} x {columns} patches", "row by row"
    raise UnsupportedModel(
        f"the {what} are not the last tokens of the first block, {order}, or are mixed before it: "
        "where each of them went is not known; accepted: class, distillation and register tokens "
        "before the patches"
    )


def follow_tokens(recording: Recording, stream: Tensor) -> list[bool | None]:
    """Whether token i of ``stream`` depends on what a block's attention makes of token i, and on
    no other, for each block; None: on none, on ways around the attention of later blocks.
    """
    tokens = recording.attention[0].shape[-1]
    below = [products[0] for products in recording.products]
    by_set = [_dependence(recording, stream, some, -2, below) for some in _sets(tokens)]

    def followed(found: tuple[Tensor | None, ...]) -> bool | None:
        if any(f is None for f in found):
            return None
        dimensions = _dimensions_of(tokens, found[0])
        return any(_one_to_one([_any(f.movedim(d, 0)) for f in found]) for d in dimensions)

    return [followed(found) for found in zip(*by_set, strict=True)]


def _seen_by_tokens(recording: Recording, prefix: int, count: int) -> Iterator[list[Tensor]]:
    """Which of ``count`` patches each of the sets of as many tokens after ``prefix`` depends on.

    [count] each, bool: of the values of the first block, read in one way after the other.
    """
    embedding, values = recording.embedding, recording.values[0]
    tokens = recording.attention[0].shape[-1]
    if recording.is_text or embedding is None:
        below = recording.input
    else:
        below = embedding.input if embedding.kernel is None else embedding.output

    def patches(found: Tensor) -> Iterator[Tensor]:
        if below is recording.input:
            yield found.reshape(len(found), count, -1).transpose(0, 1)
        elif embedding.kernel is None:
            yield from (x.transpose(0, 1) for x in by_sample(found, recording.batch_size))
        else:
            yield found.flatten(2).movedim(2, 0)

    after = tokens - count - prefix
    for dimension in _dimensions_of(tokens, values):
        starts = [F.pad(some, (prefix, after)) for some in _sets(count)]
        found = [_dependence(recording, values, x, dimension, [below])[0] for x in starts]
        if all(f is not None for f in found):
            for parts in zip(*map(patches, found), strict=True):
                yield [_any(part) for part in parts]


@functools.lru_cache
def _sets(count: int) -> Tensor:
    """Sets of tokens, as few as can be, so that one holds i and not j, for each i and j.

    [sets, count], bool. Of k sets each token is in another half (Sperner 1928), for k = 2 at least.
    """
    size = next(k for k in itertools.count(2) if math.comb(k, k // 2) >= count)
    sets = torch.zeros(size, count, dtype=torch.bool, device="cpu")
    chosen = itertools.combinations(range(size), size // 2)
    for token, of_token in enumerate(itertools.islice(chosen, count)):
        sets[list(of_token), token] = True
    return sets


def _one_to_one(seen: Sequence[Tensor]) -> bool:
    """Whether what each of the sets sees, [count], is this set: token i sees i and no other."""
    return all(torch.equal(s, some) for s, some in zip(seen, _sets(len(seen[0])), strict=True))


def _any(parts: Tensor) -> Tensor:
    """Whether something is not 0, of each part: [count, ...] -> [count], on the CPU."""
    return parts.any(dim=tuple(range(1, parts.ndim))).cpu()


def _dimensions_of(tokens: int, x: Tensor) -> list[int]:
    """Those that may be the tokens of [B, H, N, d], [B*H, N, d] or [B, N, H, d]."""
    return [d for d in (-2, -3) if x.ndim >= -d and x.shape[d] == tokens]


def _dependence(
    recording: Recording,
    above: Tensor,
    start: Tensor,
    dimension: int,
    below: Sequence[Tensor | GradientEdge],
) -> tuple[Tensor | None, ...]:
    """Above 0 for what of ``below`` the tokens ``start`` [N] of ``above`` depend on; None: nothing.

    It is a backward pass without the matrix products: all channels of a token depend on all. It
    goes around attention.
    """
    walk = {"linear": _linear, "patch_embedding": _linear, "add": spread, "mul": spread}
    walk |= {"matmul": nothing, "einsum": nothing}
    recording.backward.rules, recording.backward.eps = PAPER | walk, 0.0
    arriving = start.to(above).view(-1, *[1] * (-1 - dimension)).expand_as(above)
    return torch.autograd.grad(above, below, arriving, retain_graph=True, allow_unused=True)


def _linear(relevance: Tensor, output: Tensor, input: Tensor, *weights, eps: float) -> Tensor:
    return relevance.sum(dim=-1, keepdim=True).expand_as(input)
