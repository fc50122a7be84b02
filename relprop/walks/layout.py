"""Where the tokens of an input are among those of a block: shapes alone leave it open."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.errors import UnsupportedModel


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
