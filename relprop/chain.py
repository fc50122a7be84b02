"""Whether a model is one chain of blocks, as methods take it that multiply attention maps.

They multiply I + C of each block, C being made of its attention map, and read the rows of tokens
that the head reads. So there must be one set of tokens after each block, a sum of the tokens
before it (the I) and of what attention makes of them, and nothing may go past it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

from relprop.layout import follow_tokens
from relprop.recording import Recording


@dataclass(frozen=True)
class Chain:
    """The tokens after the last block, [B, N, D], through which all goes that the head reads.

    They are the last such sum of streams: a head may add what else it likes. And why there are
    none (``no_stream``), why token i of a block is not token i of the last (``no_tokens``), why
    the maps of blocks may not be multiplied (``no_chain``); each empty where all is well.
    """

    stream: Tensor | None
    no_stream: str = ""
    no_tokens: str = ""
    no_chain: str = ""


def chain_of(recording: Recording, logits: Tensor) -> Chain:
    last, tokens = len(recording.attention) - 1, recording.attention[-1].shape[-1]
    sums = [x for x in recording.sums[-1] if x.shape[1] == tokens]
    passed = _passed_by_all(sums, logits.grad_fn, last, recording)
    for stream in passed:
        same = follow_tokens(recording, stream)
        if same[last]:
            moved = [block for block in range(last) if same[block] is False]
            no_tokens = _why_moved(moved[-1]) if moved else ""
            return Chain(stream, "", no_tokens, _why_no_chain(recording, stream))
    if sums and not passed:
        why = _why_more("the head takes", last)
    else:
        why = (
            f"the tokens after the last block ([B, {tokens}, D], the sum of a residual stream) "
            "were not seen, so it is not known which of them the head reads"
        )
    return Chain(None, why, why, why)


def settle_source(recording: Recording, logits: Tensor) -> None:
    """Relevance ends at the input itself where not all goes through what the first layer takes.

    As where the first layer is that of a side branch, such as a gate.
    """
    source, given = recording.source, recording.input
    if source is None or source is given:
        return
    start = get_gradient_edge(given).node
    if _reaches(logits.grad_fn, [start], [source.grad_fn]):
        recording.source = given


def _why_no_chain(recording: Recording, stream: Tensor) -> str:
    above = stream.grad_fn
    for block in reversed(range(len(recording.attention))):
        if block == 0:
            below = get_gradient_edge(recording.input).node
        else:
            passed = _passed_by_all(recording.sums[block], above, block - 1, recording)
            if not passed:
                return _why_more(f"block {block} takes", block - 1)
            below = passed[0].grad_fn
        products = [product.node for product in recording.products[block]]
        if not _reaches(above, [below], products):
            return (
                f"no residual connection leads around the attention of block {block}, and maps "
                "are multiplied as I + A, the I being that connection; accepted: x + attention(x)"
            )
        above = below
    return ""


def _why_more(takes: str, block: int) -> str:
    return (
        f"{takes} more, or other, than the sum of a residual stream after block {block}, such as "
        "tokens of an earlier block, and maps are multiplied along one chain; accepted: blocks "
        "each of which takes what the one before it has made, and a head on the last; or the "
        "method lrp"
    )


def _why_moved(block: int) -> str:
    return (
        f"tokens are selected, mixed or change places between blocks {block} and {block + 1}, and "
        "maps are read token by token; accepted: the same tokens in all blocks; or the method lrp"
    )


def _passed_by_all(
    sums: Sequence[Tensor], above: Node, block: int, recording: Recording
) -> list[Tensor]:
    """Of sums after a block: those that all passes which ``above`` takes of it and those before.

    The last first. What attention maps are made of is not looked at: a map is as it is.
    """
    below = [p.node for products in recording.products[: block + 1] for p in products]
    maps = [attention.grad_fn for attention in recording.attention]
    return [x for x in reversed(sums) if not _reaches(above, below, [x.grad_fn, *maps])]


def _reaches(above: Node, below: Iterable[Node], closed: Iterable[Node]) -> bool:
    """Whether a way leads down from a node of the graph to one of ``below``, and not through
    ``closed`` ones."""
    below, seen, left = set(below), set(closed), [above]
    while left:
        for node, _ in left.pop().next_functions:
            if node in below and node not in seen:
                return True
            if node is not None and node not in seen:
                seen.add(node)
                left.append(node)
    return False
