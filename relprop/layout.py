"""Where samples, patches and tokens lie in what was recorded: shapes alone leave it open."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import Node

from relprop.errors import UnsupportedModel


def check_samples_apart(unclear: Sequence[Tensor], logits: Tensor) -> None:
    """Follow sample 1 back into tensors [B, ...] or [B*H, ...] whose first dimension is unclear."""
    batch = len(logits)
    start = torch.zeros_like(logits)
    start[1] = 1
    found = torch.autograd.grad(logits, unclear, start, retain_graph=True, allow_unused=True)
    for x, f in zip(unclear, found, strict=True):
        if f is not None and f.unflatten(0, (batch, -1))[torch.arange(batch) != 1].any():
            raise UnsupportedModel(
                f"in a tensor of shape {list(x.shape)} the batch of {batch} is not first: "
                "tokens, or heads, come before it; accepted: [batch, tokens, channels] and "
                "attention [batch, heads, tokens, tokens] or [batch * heads, tokens, tokens]"
            )


def passes(above: Node, below: Node, through: Iterable[Node]) -> bool:
    """Whether every way from a node of the graph down to another leads through some of those."""
    seen, left = set(through), [above]
    while left:
        for node, _ in left.pop().next_functions:
            if node is below and node not in seen:
                return False
            if node is not None and node not in seen:
                seen.add(node)
                left.append(node)
    return True


def prefix_of(
    count: int, tokens: int, is_picture: bool, transport: Callable[[Tensor], Tensor], what: str
) -> int:
    """How many tokens come before the patches, of which patch i is token ``prefix`` + i.

    After those of a text or a sequence there may be others as well.

    Args:
        count: of the patches, or entries, of the input.
        tokens: of a block.
        transport: the weights of a block's tokens [N] -> those of the input's [count].
        what: names the input's tokens in an error.

    Raises:
        UnsupportedModel: patches are elsewhere, in another order or mixed.
    """
    last = tokens - count
    places = (last,) if is_picture else (last, 0)
    for prefix in dict.fromkeys(places) if last >= 0 else ():
        sets = _sets(count)
        if all(torch.equal(transport(F.pad(s, (prefix, last - prefix))) > 0, s) for s in sets):
            return prefix
    raise UnsupportedModel(
        f"the {what} are not the last tokens of a block, in its order, or are mixed before it: "
        "where each of them went is not known; accepted: class, distillation and register tokens "
        "before the patches, and the same tokens in all blocks; or a method that follows tokens, "
        "such as transformer_attribution"
    )


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
