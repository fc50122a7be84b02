"""Patches that are cut by reshaping and embedded by a linear layer are those of a convolution."""

import functools

import pytest
import torch
import torch.nn.functional as F
from timm.models import create_model
from torch import Tensor, nn

import relprop
from relprop import UnsupportedModel
from tests.helpers.methods import OF_ALL_INPUTS, crossed
from tests.helpers.plain import B, D, Plain, assert_same, everything, pixels
from tests.relprop.test_patches import METHODS, TARGET, picture

# How models cut [B, 3, 12, 12] into 9 patches of 4 x 4, [B, 9, 48] or [B, 3, 3, 48]; and the
# order in which that puts the channels, rows and columns of a patch.
CUTS = {
    "reshape": (
        lambda x: x.reshape(-1, 3, 3, 4, 3, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 9, 48),
        "hwc",
    ),
    "unfold": (
        lambda x: x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3),
        "chw",
    ),
    "im2col": (lambda x: F.unfold(x, 4, stride=4).transpose(1, 2), "chw"),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 4).flatten(2).mT, "chw"),
    "chunks": (
        lambda x: torch.stack(
            [part.flatten(1) for row in x.chunk(3, 2) for part in row.chunk(3, 3)], 1
        ),
        "chw",
    ),
    "slices": (
        lambda x: torch.stack(
            [x[:, :, i : i + 4, j : j + 4].flatten(1) for i in (0, 4, 8) for j in (0, 4, 8)], 1
        ),
        "chw",
    ),
    "written": (lambda x: written(x), "chw"),
    "columns first": (
        lambda x: x.reshape(-1, 3, 3, 4, 3, 4).permute(0, 4, 2, 1, 3, 5).reshape(-1, 9, 48),
        "chw",
    ),
    "channels last": (
        lambda x: x.movedim(1, 3).reshape(-1, 3, 4, 3, 4, 3).transpose(2, 3).reshape(-1, 9, 48),
        "hwc",
    ),
}


def written(x: Tensor) -> Tensor:
    patches = torch.zeros(len(x), 9, 48).double()
    for p in range(9):
        i, j = 4 * (p // 3), 4 * (p % 3)
        patches[:, p] = x[:, :, i : i + 4, j : j + 4].flatten(1)
    return patches


def linear(name: str, by_hand: bool = False, before=lambda x: x) -> Plain:
    """The weights of ``Plain``'s convolution in a linear layer."""
    cut, order = CUTS[name]
    permuted = [1 + "chw".index(letter) for letter in order]

    def tokens(self, x):
        weight, bias = self.embed.weight.permute(0, *permuted).flatten(1), self.embed.bias
        x = cut(before(x))
        x = x @ weight.mT + bias if by_hand else F.linear(x, weight, bias)
        position = self.position
        if name == "columns first":
            places = position[:, 1:].view(1, 3, 3, D).transpose(1, 2).flatten(1, 2)
            position = torch.cat([position[:, :1], places], 1)
        x = torch.cat([self.prefix.expand(len(x), -1, -1), x.reshape(len(x), 9, D)], dim=1)
        return x + position

    return Plain(tokens=tokens)


@functools.lru_cache(maxsize=1)  # which all methods are asked of
def recorded(name: str) -> tuple[relprop.Trace, relprop.Trace]:
    """A model with a linear layer, and the one with the convolution."""
    return relprop.record(linear(name), pixels()), relprop.record(Plain(), pixels())


@pytest.mark.parametrize(("name", "method"), crossed(CUTS))
def test_maps_are_those_of_the_convolution(name, method):
    found, expected = (relprop.explain_trace(trace, TARGET, method) for trace in recorded(name))
    assert found.grid == expected.grid == ((12, 12) if relprop.METHODS[method].pixels else (3, 3))
    torch.testing.assert_close(found.relevance, expected.relevance)
    torch.testing.assert_close(found.heatmap(20), expected.heatmap(20))


@pytest.mark.parametrize("by_hand", [False, True], ids=["F.linear", "@"])
def test_a_recording_is_that_of_the_convolution(by_hand):
    found = relprop.record(linear("reshape", by_hand), pixels())
    assert (found.grid, found.prefix, found.tokens) == ((3, 3), 1, 10)
    assert_same(everything(linear("reshape", by_hand), pixels()), everything(Plain(), pixels()))


def test_several_classes_at_once():
    trace = relprop.record(linear("reshape"), pixels())
    for method in OF_ALL_INPUTS:
        together = relprop.explain_classes(trace, [0, 1, 2], method)
        for target, found in enumerate(together):
            alone = relprop.explain_trace(trace, target, method)
            torch.testing.assert_close(found.relevance, alone.relevance)


@pytest.mark.parametrize(("name", "method"), crossed(["reshape", "im2col"]))
def test_of_a_picture_that_the_model_pads(name, method):
    x = picture(3, 10, 9)
    found = relprop.explain(
        linear(name, before=lambda x: F.pad(x, (1, 2, 2, 0))), x, TARGET, method
    )

    def tokens(self, x):
        return Plain.tokens(self, F.pad(x, (1, 2, 2, 0)))

    expected = relprop.explain(Plain(tokens=tokens), x, TARGET, method)
    assert found.grid == expected.grid and found.sides == expected.sides
    torch.testing.assert_close(found.relevance, expected.relevance)
    torch.testing.assert_close(found.heatmap((10, 9)), expected.heatmap((10, 9)))


@METHODS
def test_patches_that_overlap(method):
    """im2col of a picture of 10 x 10: 3 x 3 patches of 4 x 4, 3 pixels apart."""

    def cut(self, x):
        x = F.unfold(x, 4, stride=3).transpose(1, 2)
        return F.linear(x, self.embed.weight.flatten(1), self.embed.bias)

    def convolve(self, x):
        return F.conv2d(x, self.embed.weight, self.embed.bias, 3).flatten(2).transpose(1, 2)

    def model(embed):
        def tokens(self, x):
            x = torch.cat([self.prefix.expand(len(x), -1, -1), embed(self, x)], dim=1)
            return x + self.position

        return Plain(tokens=tokens)

    found, expected = (
        relprop.explain(model(embed), picture(3, 10, 10), TARGET, method)
        for embed in (cut, convolve)
    )
    assert found.sides == expected.sides
    torch.testing.assert_close(found.relevance, expected.relevance)


@METHODS
def test_within_a_model_that_explains_another(method):
    """To find out where the patches lie is no part of the outer recording."""
    inner, outer, x = linear("reshape"), Plain(), pixels()

    class Masking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = inner, outer

        def forward(self, x: Tensor) -> Tensor:
            heat = relprop.explain(inner, x, TARGET, method).heatmap(12)[:, None]
            return outer(x * (1 + heat))

    expected = relprop.explain(inner, x, TARGET, method).heatmap(12)[:, None]
    assert_same(everything(Masking(), x), everything(outer, x * (1 + expected)))


class AsVitPytorchHasIt(nn.Module):
    """Rearranged, normalised, embedded and normalised again; class token and registers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.to_patch = nn.Sequential(nn.LayerNorm(192), nn.Linear(192, 32), nn.LayerNorm(32))
        self.cls, self.registers = (
            nn.Parameter(torch.randn(1, 1, 32)),
            nn.Parameter(torch.randn(1, 2, 32)),
        )
        self.position = nn.Parameter(torch.randn(1, 19, 32))
        layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, 3, 4, 8, 4, 8).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        prefix = [p.expand(len(x), -1, -1) for p in (self.cls, self.registers)]
        x = torch.cat([*prefix, self.to_patch(x)], dim=1) + self.position
        return self.head(self.blocks(x)[:, 0])


@METHODS
def test_class_token_and_registers_are_no_patches(method):
    model, x = AsVitPytorchHasIt().double().eval(), picture(3, 32, 32)
    trace = relprop.record(model, x)
    assert (trace.grid, trace.prefix) == ((4, 4), 3)
    found = relprop.explain_trace(trace, TARGET, method)
    side = 32 if relprop.METHODS[method].pixels else 4
    assert found.grid == (side, side) and found.relevance.shape == (B, side**2)
    assert found.heatmap(32).shape == (B, 32, 32)
    one = relprop.explain(model, x[1:2], 1, method)  # alone: by its own lowest and highest value
    torch.testing.assert_close(found.relevance[1:2], one.relevance)


def test_a_patch_far_from_the_others_is_found_where_it_is():
    model, x = AsVitPytorchHasIt().double().eval(), torch.zeros(1, 3, 32, 32).double()
    with torch.no_grad():
        model.position.zero_()
    x[:, :, 8:16, 24:32] = torch.randn(3, 8, 8).double()
    relevance = relprop.explain(model, x, 0, "raw_attention").relevance.view(4, 4)
    odd = relevance - relevance.median()
    assert odd.abs().argmax() == 1 * 4 + 3 and (odd.abs() > 1e-9).sum() == 1


@functools.lru_cache(maxsize=1)
def naflexvits(size: tuple[int, int]) -> list[relprop.Trace]:
    """With a linear layer, and with its weights in a convolution."""
    sizes = dict(patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=5)
    models = []
    for kind in ("linear", "conv"):
        torch.manual_seed(0)
        options = dict(embed_proj_type=kind, dynamic_img_pad=True, reg_tokens=1, img_size=32)
        models.append(create_model("naflexvit_base_patch16_gap", **sizes, **options))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in models[0].named_parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
        if name == "embeds.proj.weight":  # [D, h, w, C] -> [D, C, h, w]
            twin = parameter.data.view(24, 8, 8, 3).permute(0, 3, 1, 2)
        else:
            twin = parameter.data
        models[1].get_parameter(name).data = twin.clone()
    return [relprop.record(model.double().eval(), picture(3, *size)) for model in models]


@METHODS
@pytest.mark.parametrize("size, grid", [((32, 32), (4, 4)), ((36, 20), (5, 3))])
def test_naflexvit_of_a_picture(method, size, grid):
    """timm's; with its weights in a convolution, as it may have them as well."""
    found, expected = (relprop.explain_trace(t, TARGET, method) for t in naflexvits(size))
    assert found.grid == expected.grid == (size if relprop.METHODS[method].pixels else grid)
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.relevance, expected.relevance)


# ----------------------------------------------------------------------------------- refused


def cutting(cut) -> Plain:
    """A model that embeds what ``cut`` makes of a picture."""

    def tokens(self, x):
        x = cut(x)
        weight = torch.ones(D, x.shape[-1]).double()
        x = F.linear(x, weight).reshape(3, -1, D)[:, :9]
        return torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1) + self.position

    return Plain(tokens=tokens)


cut = CUTS["reshape"][0]
REFUSED = {
    "grey": (cutting(lambda x: cut(x.mean(1, keepdim=True).expand(-1, 3, -1, -1))), "mixed"),
    "standardised": (cutting(lambda x: cut(x - x.mean((2, 3), keepdim=True))), "mixed"),
    "samples and patches in one": (
        cutting(lambda x: cut(x).flatten(0, 1)),
        r"of shape \[27, 48\] for a batch of 3; accepted: batch first",
    ),
    "patches of single channels": (
        cutting(lambda x: x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4).flatten(1, 3)),
        r"they lie along 3 dimensions of the input's \[3, 12, 12\]",
    ),
    "another order in each sample": (
        cutting(lambda x: torch.stack([s[torch.arange(9).roll(i)] for i, s in enumerate(cut(x))])),
        "where in the input each patch lies is not known",
    ),
    "unequal distances": (
        cutting(
            lambda x: torch.stack(
                [x[:, :, i : i + 4, j : j + 4].flatten(1) for i in (0, 3, 8) for j in (0, 4, 8)], 1
            )
        ),
        "cut at unequal distances",
    ),
    "an edge": (
        cutting(lambda x: torch.cat([cut(x)[:, :8], cut(x)[:, 6:7]], 1)),
        "no grid of rows and columns",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_patches_of_no_known_place_are_refused(name):
    model, message = REFUSED[name]
    with pytest.raises(UnsupportedModel, match=message):
        relprop.explain(model, pixels())


def test_of_two_linear_layers_on_the_same_pixels_maps_are_of_pixels():
    """No one of them is where the tokens of the picture begin."""

    def tokens(self, x):
        x = cut(x)
        ones = torch.ones(D, 48).double()
        x = F.linear(x, ones) * F.linear(x, ones).sigmoid()
        return torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1) + self.position

    found = relprop.explain(Plain(tokens=tokens), pixels())
    assert found.grid == (12, 12) and found.relevance.std() > 0
