"""Where in the input the patches and tokens of a recording come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from relprop.errors import UnsupportedModel
from relprop.recording.record import Embedding, Source
from relprop.sides import Side
from relprop.walks.windows import windows

DIGIT = 128  # coordinates are followed in two digits: numbers that bfloat16 holds exactly
NONE = torch.iinfo(torch.long).max


@dataclass(frozen=True)
class Places:
    """The ``count`` patches of a picture, words of a text or entries of a sequence, as embedded.

    ``order``: those that look at the input, in its own order (of a picture: row by row); None is
    all of them as they come. ``sides``: where they lie along height and width of a picture; None
    of other inputs. Relevance of the source is summed over its dimension ``channels`` (None: over
    none), or over the places in a sample that each patch takes, ``entries`` [count, k]. Of a
    sequence from which a convolution makes the tokens it is of its own ``length``.
    """

    count: int
    order: Tensor | None = None
    sides: tuple[Side, Side] | None = None
    channels: int | None = -1
    entries: Tensor | None = None
    length: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether these are the numbers of a vector that were not cut into patches."""
        return self.sides is None and self.entries is None and self.length is None

    def of_source(self, relevance: Tensor) -> Tensor:
        """The relevance of the source by pixels, [B, H, W], or by tokens, [B, count]."""
        if self.entries is not None:  # -1 is a constant, such as padding
            entries = self.entries.to(relevance.device)
            return F.pad(relevance.flatten(1), (0, 1))[:, entries].sum(dim=-1)
        if self.channels is None or relevance.ndim < 3:
            return relevance
        relevance = relevance.sum(dim=self.channels)
        if self.length == self.count and self.order is not None:  # as tokens of the model's order
            return relevance[:, self.order.argsort().to(relevance.device)]
        return relevance


def places_of(source: Source, several: bool) -> Places | None:
    """Where the patches or tokens of a source lie; None where nobody knows what its tokens are.

    ``several``: the model has other inputs, whose tokens may be among those of this one. Raises
    UnsupportedModel where the patches of a picture are no regular grid.
    """
    given = source.tensor
    if source.is_text:
        return Places(count=given[0, ..., 0].numel())
    if len(source.embeddings) != 1:
        return None
    embedding = source.embeddings[0]
    convolved = embedding.kernel is not None and len(embedding.kernel) > 1
    if not convolved and given.ndim < 4 and several:
        return None
    if convolved and given.ndim == 2:
        given = embedding.input  # of a vector: the picture that the model makes of it
    seen = _seen(embedding, given)
    if seen is None:
        if convolved or given.ndim > 3:
            raise _unknown("values are mixed (averaged, resized) before patches are cut")
        return Places(given.shape[1])
    if given.ndim == 2 and seen.shape[1] == 1:  # one layer takes the whole vector
        return Places(given.shape[1], channels=None)
    if convolved and given.ndim == 5:
        return _of_video(_flat(seen, given.shape[1:]))
    looking = (seen[0] >= 0).any(dim=-1)  # the others see padding alone
    # low + high: distinct also of patches that the input's edge clips
    position = seen.amax(dim=-1) + seen.masked_fill(seen < 0, NONE).amin(dim=-1)
    position = position.masked_fill(~looking, -1)
    varying = [d for d, p in enumerate(position) if len(p[looking].unique()) > 1]
    axes = _axes_of_picture(varying, tuple(given.shape[1:]), convolved)
    if axes is None:
        of_patch = position[varying[0] if varying else 0].argsort(stable=True)[(~looking).sum() :]
        order = _unless_as_they_come(of_patch, len(looking))
        channels = 1 if given.ndim > 2 else None
        if embedding.kernel is not None:
            return Places(len(looking), order, None, channels, length=given.shape[-1])
        entries = _flat(seen, given.shape[1:])
        return Places(len(looking), order, None, channels, entries)
    vertical, horizontal = (position[axis] for axis in axes)
    grid = _raster(vertical, horizontal, looking)  # [rows, columns]
    by_side = (seen[axes[0], grid], seen[axes[1], grid.T])  # [rows, columns, k], [columns, ...]
    return Places(
        count=len(looking),
        order=_unless_as_they_come(grid.flatten(), len(looking)),
        sides=(
            _side(given.shape[1 + axes[0]], by_side[0].flatten(1)),
            _side(given.shape[1 + axes[1]], by_side[1].flatten(1)),
        ),
        channels=next((1 + d for d in range(len(seen)) if d not in axes), None),
    )


def _of_video(entries: Tensor) -> Places:
    """Those of blocks of a video, in the order of time, rows and columns."""
    known = entries[entries >= 0]
    if len(known.unique()) < len(known):
        raise _unknown("the blocks of a video overlap")
    first = entries.masked_fill(entries < 0, NONE).amin(dim=1)
    order = _unless_as_they_come(first.argsort(), len(first))
    return Places(len(first), order, None, None, entries)


def _unknown(why: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"where in the input each patch lies is not known: {why}; accepted: a picture [B, C, H, W] "
        "cut into a regular grid by a convolution, or by rearranging it for a linear layer, before "
        "which pixels are shifted, scaled and padded alone; vectors [B, N], sequences [B, N, F], "
        "and videos in blocks that do not overlap"
    )


def _unless_as_they_come(order: Tensor, count: int) -> Tensor | None:
    return None if torch.equal(order, torch.arange(count)) else order


def _axes_of_picture(
    varying: list[int], shape: tuple[int, ...], convolved: bool
) -> tuple[int, int] | None:
    """Which dimensions of a sample are height and width; None of a sequence.

    ``varying``: those along which patches lie at different places.
    """
    if not convolved and len(varying) < 2 and (len(shape) != 3 or varying == [0]):
        return None
    if len(shape) == 2:
        return 0, 1
    if len(shape) == 3 and 0 not in varying:
        return 1, 2  # [C, H, W]
    if len(shape) == 3 and 2 not in varying and shape[2] < shape[0]:
        return 0, 1  # [H, W, C]
    raise _unknown(f"they lie along {len(varying)} dimensions of the input's {list(shape)}")


def _raster(vertical: Tensor, horizontal: Tensor, looking: Tensor) -> Tensor:
    """The patches at these positions [P] as they lie in the picture: [rows, columns]."""
    row, column = (x[looking].unique(return_inverse=True)[1] for x in (vertical, horizontal))
    shape = int(row.max()) + 1, int(column.max()) + 1
    place = row * shape[1] + column
    if not torch.equal(place.sort().values, torch.arange(shape[0] * shape[1])):
        raise _unknown("they are no grid of rows and columns")
    return looking.nonzero()[:, 0][place.argsort()].view(shape)


def _side(size: int, seen: Tensor) -> Side:
    """Of the coordinates that each of the patches along a side sees: [patches, k], -1 is none.

    Patches are cut alike: entry j of patch i is coordinate i * stride + a constant of j. But where
    that is outside, in padding, it may be a pixel of the same patch (reflected, or replicated).
    """
    known, index = seen >= 0, torch.arange(len(seen))[:, None]
    steps = seen.diff(dim=0)[known[1:] & known[:-1]]
    if len(seen) > 1 and not len(steps):
        raise _unknown("no two of them are cut alike")
    stride = int(steps.median()) if len(seen) > 1 else 0
    seen, known = seen[:, known.any(dim=0)], known[:, known.any(dim=0)]
    constants = (seen - index * stride).double().masked_fill(~known, torch.nan)

    def fits(constant: Tensor) -> Tensor:
        place = constant + index * stride
        outside = (place < 0) | (place >= size)
        own = (seen >= place.amin(dim=1, keepdim=True)) & (seen <= place.amax(dim=1, keepdim=True))
        return (~known | (seen == place) | outside & own).all(dim=0)

    # Of two patches, one of which sees padding, the median may be that one's.
    lower, upper = constants.nanmedian(dim=0).values, -(-constants).nanmedian(dim=0).values
    constant = torch.where(fits(lower), lower, upper)
    if not fits(constant).all():
        raise _unknown("they are cut at unequal distances")
    first, length = int(constant.min()), int(constant.max() - constant.min()) + 1
    return Side(size, len(seen), first, stride or length, length)


# ------------------------------------------------------------------------------- coordinates


def _seen(embedding: Embedding, origin: Tensor) -> Tensor | None:
    """What each patch sees of ``origin``: coordinates in a sample, [dims, P, k]; -1 is none."""
    found: Tensor | None
    if embedding.kernel is not None:
        if embedding.input is origin:  # of a picture one channel tells for all
            sizes = map(
                torch.arange, (origin.shape[1] if origin.ndim > 4 else 1, *origin.shape[2:])
            )
            found = torch.stack(torch.meshgrid(*sizes, indexing="ij"))
        else:
            found = coordinates(embedding.input, origin)
        return None if found is None else windows(found, embedding.kernel, **embedding.options)
    for arranged in by_sample(embedding.input, len(origin)):
        found = coordinates(arranged, origin)
        if found is not None:
            return found
    return None


def by_sample(embedded: Tensor, batch: int) -> Iterator[Tensor]:
    """What a linear layer takes as [B, P, k], one reading after the other."""
    if embedded.shape[0] % batch == 0:  # [B, ..., k] or [B * P, k]
        yield embedded.reshape(batch, -1, embedded.shape[-1])
    if embedded.ndim == 3 and embedded.shape[1] == batch:  # [P, B, k]
        yield embedded.transpose(0, 1)


def coordinates(x: Tensor, origin: Tensor) -> Tensor | None:
    """Where in its sample of ``origin`` each entry of ``x`` comes from: [dims, *x.shape[1:]].

    -1 for a constant, such as padding. None where entries are mixed, or samples not alike.
    """
    moved = _mover(x, origin)
    if moved is None:
        return None
    known = moved(torch.ones_like(origin))
    if not ((known == 0) | (known == 1)).all():
        return None
    found = []
    for dim, size in enumerate(origin.shape):
        index = torch.arange(size, device=origin.device)
        index = index.view(-1, *[1] * (origin.ndim - 1 - dim)).expand(origin.shape)
        high, low = (moved(digit.to(origin)).double() for digit in (index // DIGIT, index % DIGIT))
        place = (high * DIGIT + low).long().masked_fill(known == 0, -1).cpu()
        sample = torch.arange(len(x)).view(-1, *[1] * (x.ndim - 1))
        expected = sample if dim == 0 else place[:1]
        if not ((place == expected) | (place < 0) & (dim == 0)).all():
            return None
        found.append(place[0])
    return torch.stack(found[1:])


def _mover(x: Tensor, origin: Tensor):
    """The linear map from values of ``origin`` to those of ``x``: 1 where it is moved, 0 else.

    The transpose of how relevance moves from ``x`` to ``origin``; what is mixed on the way, by
    other operations than a sum with a constant, is 2 or more for values of 1 (and not NaN, which
    torch's anomaly detection takes for an error).
    """
    arriving = torch.zeros_like(x, requires_grad=True)
    with torch.enable_grad():
        (leaving,) = torch.autograd.grad(
            x, origin, arriving, create_graph=True, retain_graph=True, allow_unused=True
        )
    if leaving is None or not leaving.requires_grad:
        return None

    def moved(values: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(leaving, arriving, values, retain_graph=True)
        return found

    return moved


class Moves:
    """A walk of what is moved, and neither scaled nor mixed."""

    def back(self, node, call, arriving: Tensor) -> tuple[Tensor | None, ...]:
        if call.operation.unchanged:
            return (arriving,)
        if call.operation.name == "add":
            of_streams = zip(call.shares, call.shapes, strict=True)
            return tuple(None if s is None else arriving.sum_to_size(x) for s, x in of_streams)
        return tuple(2 * arriving.sum().expand(shape) for shape in call.shapes)


def _flat(places: Tensor, shape: torch.Size) -> Tensor:
    """Coordinates [dims, P, k] as places in a flat sample, [P, k]; -1 is none."""
    flat = torch.zeros_like(places[0])
    for place, size in zip(places, shape, strict=True):
        flat = flat * size + place
    return flat.masked_fill(places[0] < 0, -1)
