"""Where patches lie in the picture that a model is given, and what heatmaps of them cover."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import relprop
from relprop import UnsupportedModel
from relprop.sides import Side
from tests.helpers.methods import OF_ALL_INPUTS, crossed
from tests.helpers.plain import B, D, Plain

METHODS = pytest.mark.parametrize("method", OF_ALL_INPUTS)
TARGET = torch.arange(B)


def picture(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, *shape, dtype=torch.float64, generator=generator)


def cut_by(kernel=(4, 4), before=lambda x: x, **options) -> Plain:
    """A model of 3 x 3 patches, which does something to its picture ``before`` it cuts it."""
    weight = torch.randn(D, 3, *kernel, generator=torch.Generator().manual_seed(2)).double()

    def tokens(self, x):
        x = F.conv2d(before(x), weight, None, **options).flatten(2).transpose(1, 2)
        return torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1) + self.position

    return Plain(tokens=tokens)


def slow_heatmap(relevance: Tensor, shape, rows, columns, size) -> Tensor:
    """Of a map [3, 3] over patches at pixels (start, stop) of a picture of ``shape``, one by one:
    between their centres linear, beyond them the nearest, and 0 where no patch looks."""
    heatmap = torch.zeros(size, dtype=torch.float64)
    centres = [[(start + stop) / 2 for start, stop in side] for side in (rows, columns)]
    for i, j in np.ndindex(*size):
        y, x = (i + 0.5) * shape[0] / size[0], (j + 0.5) * shape[1] / size[1]
        seen = any(a <= y < b for a, b in rows) and any(a <= x < b for a, b in columns)
        of_columns = [np.interp(y, centres[0], column) for column in relevance.T.numpy()]
        heatmap[i, j] = np.interp(x, centres[1], of_columns) if seen else 0
    return heatmap


CUTS = {  # shape of the picture, kernel, other options; where rows and columns of patches lie
    "tiles": ((12, 12), (4, 4), {"stride": 4}, [(0, 4), (4, 8), (8, 12)], ...),
    "tiles that are no squares": (
        (6, 15), (2, 5), {"stride": (2, 5)}, [(0, 2), (2, 4), (4, 6)], [(0, 5), (5, 10), (10, 15)]
    ),
    "a rest": ((15, 13), (4, 4), {"stride": 4}, [(0, 4), (4, 8), (8, 12)], ...),
    "overlapping": ((10, 10), (4, 4), {"stride": 3}, [(0, 4), (3, 7), (6, 10)], ...),
    "overlapping, and a rest": ((9, 9), (4, 4), {"stride": 2}, [(0, 4), (2, 6), (4, 8)], ...),
    "gaps": ((13, 11), (3, 3), {"stride": 4}, [(0, 3), (4, 7), (8, 11)], ...),
    "padded": ((10, 10), (4, 4), {"stride": 4, "padding": 1}, [(-1, 3), (3, 7), (7, 11)], ...),
    "padded at one side": (
        (12, 12), (4, 4), {"stride": (4, 6), "padding": (0, 2)},
        [(0, 4), (4, 8), (8, 12)], [(-2, 2), (4, 8), (10, 14)],
    ),
    "dilated": ((12, 12), (2, 2), {"stride": 4, "dilation": 2}, [(0, 3), (4, 7), (8, 11)], ...),
}  # fmt: skip


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("size", ["the picture's", (7, 20), (30, 9)])
def test_a_heatmap_covers_what_the_patches_cover(name, size):
    shape, kernel, options, rows, columns = CUTS[name]
    columns = rows if columns is ... else columns
    size = shape if isinstance(size, str) else size
    explanation = relprop.explain(cut_by(kernel, **options), picture(3, *shape), TARGET)
    assert explanation.grid == (3, 3) and explanation.relevance.shape == (B, 9)
    found = explanation.heatmap(size)
    for f, relevance in zip(found, explanation.relevance, strict=True):
        expected = slow_heatmap(relevance.view(3, 3), shape, rows, columns, size)
        torch.testing.assert_close(f, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CUTS)
def test_pixels_are_those_of_the_picture(name):
    shape, kernel, options, *_ = CUTS[name]
    x = picture(3, *shape).requires_grad_()
    model = cut_by(kernel, **options)
    pixels = relprop.explain(model, x, TARGET, "lrp")
    assert pixels.grid == shape and pixels.sides is None
    model(x)[torch.arange(B), TARGET].sum().backward()
    seen = x.grad.abs().sum(1) > 0  # a pixel on which nothing depends has no relevance
    assert ((pixels.relevance.view(B, *shape) != 0) == seen).all()


def test_patches_that_tile_the_picture_are_interpolated_as_torch_does(tiny_vit, images):
    explanation = relprop.explain(tiny_vit(), images, 1)
    assert explanation.sides is None
    for size in (32, (40, 21), (3, 5)):
        drawn = (size, size) if isinstance(size, int) else size
        maps = explanation.relevance.view(3, 1, 4, 4)
        expected = F.interpolate(maps, drawn, mode="bilinear", align_corners=False)[:, 0]
        assert torch.equal(explanation.heatmap(size), expected)
        ours = [Side(32, 4, 0, 8, 8).interpolation(n) for n in drawn]
        torch.testing.assert_close(ours[0] @ maps[:, 0] @ ours[1].T, expected)


# --------------------------------------------------------------------------- padded by the model


def into_a_canvas(x: Tensor) -> Tensor:
    canvas = torch.zeros(len(x), 3, 12, 12).double()
    canvas[:, :, 1:11, 2:11] = x
    return canvas


PADDED = {  # what a model does to a picture of 10 x 9, and where in 12 x 12 that puts it
    "at the end": (lambda x: F.pad(x, (0, 3, 0, 2)), 0, 0),
    "on all sides": (lambda x: F.pad(x, (2, 1, 1, 1)), 1, 2),
    "with grey": (lambda x: F.pad(x, (2, 1, 1, 1), value=0.5), 1, 2),
    "in a canvas": (into_a_canvas, 1, 2),
    "by cat": (lambda x: torch.cat([F.pad(x, (0, 3)), torch.ones(B, 3, 2, 12).double()], 2), 0, 0),
    "replicated": (lambda x: F.pad(x, (2, 1, 1, 1), mode="replicate"), 1, 2),
    "reflected": (lambda x: F.pad(F.pad(x, (1, 1, 1, 1), mode="reflect"), (1, 0)), 1, 2),
}


@functools.lru_cache(maxsize=1)  # which all methods are asked of
def padded_by_the_model(name: str) -> tuple[relprop.Trace, relprop.Trace]:
    """A model that pads, and one that is given the padded picture."""
    pad, x = PADDED[name][0], picture(3, 10, 9)
    models = (cut_by(before=pad, stride=4), x), (cut_by(stride=4), pad(x))
    return tuple(relprop.record(model, x) for model, x in models)


@pytest.mark.parametrize(("name", "method"), crossed(PADDED))
def test_the_map_of_a_picture_that_the_model_pads_is_cut_from_that_of_the_padded_one(name, method):
    pad, top, left = PADDED[name]
    x = picture(3, 10, 9)
    found, padded = (
        relprop.explain_trace(trace, TARGET, method) for trace in padded_by_the_model(name)
    )
    if relprop.METHODS[method].pixels:  # a pixel gets what arrives at all its copies
        pixels = x.mean(1).requires_grad_()
        copies = pad(pixels[:, None].expand(-1, 3, -1, -1))[:, 0]
        (expected,) = torch.autograd.grad(copies, pixels, padded.relevance.view(B, 12, 12))
        assert found.grid == (10, 9)
        torch.testing.assert_close(found.relevance.view(B, 10, 9), expected)
        return
    assert found.grid == (3, 3)
    expected = padded.heatmap((12, 12))[:, top : top + 10, left : left + 9]
    torch.testing.assert_close(found.heatmap((10, 9)), expected)


@METHODS
def test_a_timm_model_that_pads(method, tiny_vit):
    model = tiny_vit(dynamic_img_size=True, dynamic_img_pad=True)
    x = picture(3, 36, 20)
    found = relprop.explain(model, x, TARGET, method)
    expected = relprop.explain(model, F.pad(x, (0, 4, 0, 4)), TARGET, method)
    assert found.grid == ((36, 20) if relprop.METHODS[method].pixels else (5, 3))
    heatmap = expected.heatmap((40, 24))[:, :36, :20]
    torch.testing.assert_close(found.heatmap((36, 20)), heatmap)


@pytest.mark.parametrize(("sides", "method"), crossed([(3, 0, 0, 2), (0, 3, 2, 0), (0, 3, 0, 2)]))
def test_two_patches_a_side_one_of_which_sees_copies_of_the_edge(method, sides, tiny_vit):
    """Where a patch lies is told by the pixels that both see."""
    model, pad = tiny_vit(img_size=16), torch.nn.ReplicationPad2d(sides)
    x = picture(3, 14, 13)
    found = relprop.explain(torch.nn.Sequential(pad, model), x, TARGET, method)
    if relprop.METHODS[method].pixels:
        assert found.grid == (14, 13)
        return
    expected = relprop.explain(model, pad(x), TARGET, method).heatmap((16, 16))
    expected = expected[:, sides[2] : sides[2] + 14, sides[0] : sides[0] + 13]
    torch.testing.assert_close(found.heatmap((14, 13)), expected)


@METHODS
def test_patches_of_padding_alone_are_none_of_the_picture(method):
    """As registers, they are cut from the map."""
    x = picture(3, 7, 4)
    found = relprop.explain(
        cut_by(before=lambda x: F.pad(x, (4, 4, 0, 5)), stride=4), x, TARGET, method
    )
    whole = relprop.explain(cut_by(stride=4), F.pad(x, (4, 4, 0, 5)), TARGET, method)
    if relprop.METHODS[method].pixels:
        assert found.grid == (7, 4)
        expected = whole.relevance.view(B, 12, 12)[:, :7, 4:8]
    else:
        assert found.grid == (2, 1)
        expected = whole.relevance.view(B, 3, 3)[:, :2, 1:2]
    torch.testing.assert_close(found.relevance, expected.flatten(1))


def test_parts_of_a_batch_have_the_same_places():
    model, x = cut_by(stride=4), picture(3, 15, 13)
    whole, parts = (
        relprop.explain(model, x, TARGET, max_memory=memory) for memory in (None, 0)
    )  # fmt: skip
    assert parts.sides == whole.sides is not None
    torch.testing.assert_close(parts.heatmap((15, 13)), whole.heatmap((15, 13)))


# ----------------------------------------------------------------------- rearranged by the model

REARRANGED = {  # the picture, what a model makes of it, and the same of a map [B, H, W]
    "flipped": ((3, 12, 12), lambda x: x.flip(-1), lambda m: m.flip(-1)),
    "upside down": ((3, 12, 12), lambda x: x.flip(2), lambda m: m.flip(1)),
    "rows as columns": ((3, 12, 12), lambda x: x.transpose(2, 3), lambda m: m.transpose(1, 2)),
    "turned": ((3, 12, 12), lambda x: x.rot90(1, (2, 3)), lambda m: m.rot90(1, (1, 2))),
    "channels last": ((12, 12, 3), lambda x: x.permute(0, 3, 1, 2), lambda m: m),
    "without a channel": (
        (12, 12), lambda x: x[:, None].expand(-1, 3, -1, -1), lambda m: m
    ),
    "one channel of three": ((1, 12, 12), lambda x: x.repeat(1, 3, 1, 1), lambda m: m),
    "a spectrogram": (
        (12, 12), lambda x: x[:, None].repeat(1, 3, 1, 1).mT, lambda m: m.transpose(1, 2)
    ),
    "cropped": ((3, 14, 15), lambda x: x[:, :, 1:13, 2:14], lambda m: m[:, 1:13, 2:14]),
}  # fmt: skip


@functools.lru_cache(maxsize=1)
def rearranged_by_the_model(name: str) -> tuple[relprop.Trace, relprop.Trace]:
    """A model that rearranges, and one that is given the rearranged picture."""
    shape, rearrange, _ = REARRANGED[name]
    models = (
        (cut_by(before=rearrange, stride=4), picture(*shape)),
        (cut_by(stride=4), rearrange(picture(*shape))),
    )
    return tuple(relprop.record(model, x) for model, x in models)


@pytest.mark.parametrize(("name", "method"), crossed(REARRANGED))
def test_patches_lie_where_they_lie_in_the_callers_picture(name, method):
    shape, _, of_map = REARRANGED[name]
    found, expected = (
        relprop.explain_trace(trace, TARGET, method) for trace in rearranged_by_the_model(name)
    )
    sides = [n for n in shape if n > 3]
    torch.testing.assert_close(of_map(found.heatmap(sides)), expected.heatmap((12, 12)))
    if name == "cropped":
        heatmap = found.heatmap(sides)
        torch.testing.assert_close(heatmap.abs().sum(), of_map(heatmap).abs().sum())
    else:
        maps = found.relevance.unflatten(-1, found.grid)
        torch.testing.assert_close(of_map(maps).flatten(1), expected.relevance)


@METHODS
def test_a_vector_that_the_model_takes_for_a_picture(method):
    x = picture(3, 12, 12)
    model = cut_by(before=lambda x: x.view(-1, 3, 12, 12), stride=4)
    found = relprop.explain(model, x.flatten(1), TARGET, method)
    expected = relprop.explain(cut_by(stride=4), x, TARGET, method)
    assert found.grid == expected.grid
    assert torch.equal(found.relevance, expected.relevance)


REFUSED = {
    "rolled": (cut_by(before=lambda x: x.roll(2, -1), stride=4), "cut at unequal distances"),
    "padded in a circle": (
        cut_by(before=lambda x: F.pad(x[:, :, 2:, 2:], (1, 1, 1, 1), mode="circular"), stride=4),
        "they are no grid of rows and columns",
    ),
    "other samples": (cut_by(before=lambda x: x.flip(0), stride=4), "values are mixed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_patches_of_no_known_place_are_refused(name):
    model, message = REFUSED[name]
    with pytest.raises(UnsupportedModel, match=message):
        relprop.explain(model, picture(3, 12, 12))


def test_pixels_of_whole_numbers_are_refused_by_name():
    """They are no ids of a text, and relevance flows back to floats."""
    x = torch.randint(0, 256, (B, 3, 12, 12), dtype=torch.uint8)
    model = cut_by(before=lambda x: x.double() / 255, stride=4)
    with pytest.raises(ValueError, match=r"type torch.uint8 .*accepted: pictures .*of floats"):
        relprop.explain(model, x)
    assert relprop.explain(model, x.double()).grid == (3, 3)
