"""The walk of weights: how much the state of each token counts, from the head down to the input.

A weight is carried in the shape of the tensor that it belongs to, spread evenly over the channels
of a token, so that views, windows, gathers and permutations move it as they move a gradient. Along
one chain of blocks this is the product w (I + C^L) ... (I + C^1) of the methods that multiply
attention maps: a sum that takes up the attention of block b passes the weight to both, which are
the I and the C^b, and a product A V moves it by C^b from queries to keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.errors import UnsupportedModel


@dataclass
class Weights:
    """A walk of weights.

    Attributes:
        factors: C_b [*, n, m] by the number of the map, * being the batch, and windows; of other
            maps it is 0.
        scales: by the number of a sum that takes up attention, what its weights are divided by.
        counted: maps that count. A sum that takes up others alone passes all weight by them.
        alone: a sum that takes up maps that count passes all weight to them: the I is left out.
        passing: weight that comes to a product that is no attention is lost there, in place of
            being refused; ``lost``: some was.
        watched: maps of which it is noted in ``came_to`` that weight comes to them.
    """

    factors: Mapping[int, Tensor] = field(default_factory=dict)
    scales: Mapping[int, Tensor] = field(default_factory=dict)
    counted: frozenset[int] = frozenset()
    alone: bool = False
    passing: bool = False
    lost: bool = False
    watched: frozenset[int] = frozenset()
    came_to: set[int] = field(default_factory=set)

    def back(self, node, call, w: Tensor) -> tuple[Tensor | None, ...]:
        if call.unclear:
            raise UnsupportedModel(
                f"'{call.operation.name}' to {list(call.output)} joins streams of which some have "
                "attention of their own, or have had it before: how much of the weight of tokens "
                "each gets is not known; accepted: the sum, or the mean, of a stack, or streams "
                "that are added once; or a method that does without, such as attnlrp and lrp"
            )
        if call.by_token:
            return (by_token(node.saved_tensors[0], w),)
        rule = RULES.get(call.operation.name)
        if rule is not None:
            return rule(self, call, w)
        if call.operation.function is not None:
            return (evenly(call, w),)
        if call.operation.unchanged or call.operation.elementwise:
            return (w.sum_to_size(call.shapes[0]),)
        raise UnsupportedModel(
            f"'{call.operation.name}' to {list(call.output)} is no operation that methods know "
            "which multiply attention maps; accepted: methods that do not, such as attnlrp and "
            "lrp; or relprop.register(..., elementwise=True), of an operation that is"
        )


def spread(w: Tensor, shape: torch.Size) -> Tensor:
    """Weights [..., 1], of tokens, over the channels of ``shape`` [..., D]."""
    return (w / shape[-1]).expand(shape)


def linear(walk: Weights, call, w: Tensor) -> tuple[Tensor]:
    return (spread(w.sum(dim=-1, keepdim=True), call.shapes[0]),)


def by_token(x: Tensor, w: Tensor) -> Tensor:
    """Of x K, K a constant for each token: evenly over channels of x, but for those that are 0.

    In softmax(q K) V masked keys are 0.
    """
    there = (x.detach() != 0).to(w)
    tokens = w.sum(dim=-1, keepdim=True).sum_to_size(*x.shape[:-1], 1)
    return tokens * there / there.sum(dim=-1, keepdim=True).clamp(min=1)


def add(walk: Weights, call, w: Tensor) -> tuple[Tensor | None, ...]:
    """Each state of a token counts once (:func:`relprop.recording.tags.shares`)."""
    if call.of_scores:
        raise _unknown(call)
    if call.number in walk.scales:
        w = w / walk.scales[call.number]
    shares = call.shares
    if call.maps and walk.counted.isdisjoint(call.maps):
        shares = tuple(float(not pending) for pending in call.pending)
    elif call.maps and walk.alone:
        shares = tuple(float(pending) for pending in call.pending)
    return tuple(
        None if share is None else (w * share).sum_to_size(shape)
        for share, shape in zip(shares, call.shapes, strict=True)
    )


def gate(walk: Weights, call, w: Tensor) -> tuple[Tensor | None, ...]:
    """Of a product of two streams: half each, or all to the one with attention that is pending."""
    return tuple(
        None if share is None else (w * share).sum_to_size(shape)
        for share, shape in zip(call.shares, call.shapes, strict=True)
    )


def attention(walk: Weights, call, w: Tensor) -> tuple[Tensor | None, ...]:
    """A V of map b: V gets w C_b, spread over heads and channels, and A gets nothing."""
    if call.shares:
        return ()
    if call.product is None:
        if not walk.passing:
            raise _unknown(call)
        walk.lost = True
        return ()
    map = call.product.map
    if map in walk.watched and bool(w.any()):
        walk.came_to.add(map)
    C = walk.factors.get(map)
    if C is None:
        return ()
    values = call.shapes[call.product.values]
    columns = (rows_of(call.product, w, len(C)).unsqueeze(-2) @ C).squeeze(-2)
    found = to_values(call.product, columns, w.shape, values)
    return (*(None,) * call.product.values, found)


def _unknown(call) -> UnsupportedModel:
    return UnsupportedModel(
        f"a product of two streams, to {list(call.output)}, is not that of an attention map and "
        "its values: where it takes the weight of tokens is not known; accepted: "
        "softmax(scores) @ values; or a method that multiplies no attention maps, such as attnlrp "
        "and lrp"
    )


def rows_of(product, x: Tensor, batch: int) -> Tensor:
    """What each query has of ``x``, of the shape of A V, in all heads and channels: [*, n]."""
    of_map, _, of_output = product.letters
    if product.fused:
        return torch.einsum(f"{of_output}->{of_map[:2]}", x).unflatten(0, (batch, -1)).sum(dim=1)
    return torch.einsum(f"{of_output}->{of_map[0]}{of_map[2:-1]}", x)


def to_values(product, columns: Tensor, output: torch.Size, values: torch.Size) -> Tensor:
    """Weights of keys [*, m] in the shape of V."""
    of_map, of_values, of_output = product.letters
    sizes = dict(zip(of_values, values, strict=True)) | dict(zip(of_output, output, strict=True))
    found = _spread(product, columns, of_map[-1], of_values, sizes)
    return found.sum_to_size(values)  # values may be the same for several heads


def to_output(product, rows: Tensor, output: torch.Size) -> Tensor:
    """Weights of queries [*, n] in the shape of A V."""
    of_map, _, of_output = product.letters
    sizes = dict(zip(of_output, output, strict=True))
    return _spread(product, rows, of_map[-2], of_output, sizes)


def _spread(product, tokens: Tensor, token: str, letters: str, sizes: dict[str, int]) -> Tensor:
    """Weights of tokens [*, tokens] spread evenly over the other dimensions of ``letters``."""
    of_map = product.letters[0]
    batch = of_map[0] if product.fused else of_map[0] + of_map[2:-2]
    if product.fused:
        heads = sizes[batch] // len(tokens)
        tokens = (tokens / heads).repeat_interleave(heads, dim=0)
    kept = "".join(letter for letter in letters if letter in batch + token)
    found = torch.einsum(f"{batch}{token}->{kept}", tokens)
    for dimension, letter in enumerate(letters):
        if letter not in kept:
            found = found.unsqueeze(dimension) / sizes[letter]
    return found.expand([sizes[letter] for letter in letters])


def conv(walk: Weights, call, w: Tensor) -> tuple[Tensor]:
    """Evenly over the receptive field without zeros around it, and over the channels."""
    shape, kernel = call.shapes[0], call.shapes[1]
    if len(kernel) == 2:
        return linear(walk, call, w)
    given = dict(zip(("stride", "padding", "dilation"), call.args[3:6], strict=False))
    options = given | {name: x for name, x in call.kwargs.items() if name not in ("bias", "groups")}
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 3]
    ones = w.new_ones(1, 1, *kernel[2:])

    def function(x: Tensor) -> Tensor:
        return convolve(x, ones, **options)

    inputs = w.new_ones(shape[0], 1, *shape[2:])
    if zeros := call.padded[: 2 * len(kernel[2:])]:  # those of channels do not count
        inputs = F.pad(F.pad(inputs, [-n for n in zeros]), zeros)
    found = transported(function, w.sum(dim=1, keepdim=True), inputs)
    return ((found / shape[1]).expand(shape),)


def evenly(call, w: Tensor) -> Tensor:
    """Over the receptive field of a linear map f: f^T (w / f(1)), in the mean of channels."""

    def function(x: Tensor) -> Tensor:
        remaining = list(call.args)
        return call.operation.function(x, *remaining[1:], **call.kwargs)

    return transported(function, w, w.new_ones(call.shapes[0]))


def transported(function: Callable, w: Tensor, inputs: Tensor) -> Tensor:
    ones, transposed, *_ = torch.func.vjp(function, inputs)
    return transposed(w / ones.masked_fill(ones == 0, torch.inf))[0]


RULES: dict[str, Callable[..., tuple[Tensor | None, ...]]] = {
    "linear": linear,
    "conv": conv,
    "patch_embedding": conv,
    "add": add,
    "mul": gate,
    "gate": gate,
    "matmul": attention,
    "einsum": attention,
    "product": attention,
}
"""What becomes of the weights, by operation."""
