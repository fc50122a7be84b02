"""Pictures that the model itself normalises: a shift and a scale change no map."""

import functools

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import Normalize

import relprop
from tests.helpers.methods import OF_ALL_INPUTS, crossed
from tests.helpers.plain import B, Plain, pixels
from tests.relprop.test_linear_patches import linear

METHODS = pytest.mark.parametrize("method", OF_ALL_INPUTS)
TARGET = torch.arange(B)
MEAN, STD = (torch.tensor(x).double() for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
M, S = MEAN[:, None, None], STD[:, None, None]
OF_ALL_PICTURES = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0)).double()


class Buffers(nn.Module):
    """As robustness suites have it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", MEAN.view(1, 3, 1, 1))
        self.register_buffer("std", STD.view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Batch(nn.BatchNorm2d):
    def __init__(self) -> None:
        super().__init__(3, dtype=torch.float64)
        self.running_mean[:], self.running_var[:] = MEAN, STD**2
        self.eval()


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def in_place(x: Tensor) -> Tensor:
    x = x.clone()
    x -= M
    x /= S
    return x


def channel_by_channel(x: Tensor) -> Tensor:
    return torch.stack([(x[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1)


NORMALISED = {
    "torchvision's": lambda: Normalize(MEAN.tolist(), STD.tolist()),
    "buffers": Buffers,
    "a batch norm": Batch,
    "in place": lambda: Function(in_place),
    "channel by channel": lambda: Function(channel_by_channel),
    "to -1 ... 1": lambda: Function(lambda x: x * 2 - 1),
    "of bytes": lambda: Function(lambda x: (x * 255).div(127.5).sub(1)),
    "a sum": lambda: Function(lambda x: torch.add(-M / S, x / S)),
    "by the mean picture": lambda: Function(lambda x: x - OF_ALL_PICTURES),
    "a negative": lambda: Function(lambda x: M - x),
    "channels last": lambda: Function(lambda x: ((x.movedim(1, 3) - MEAN) / STD).movedim(3, 1)),
    "clamped": lambda: Function(lambda x: (x.clamp(0, 1) - M) / S),
}


@functools.lru_cache(maxsize=1)  # which all methods are asked of
def recorded(name: str, patches: str) -> tuple[relprop.Trace, relprop.Trace]:
    """A model that normalises, and the model on normalised pictures."""
    model = Plain() if patches == "convolution" else linear("reshape")
    normalise, x = NORMALISED[name](), pixels()
    wrapped = nn.Sequential(normalise, model).eval()
    return relprop.record(wrapped, x), relprop.record(model, normalise(x))


@pytest.mark.parametrize(("name", "method"), crossed(NORMALISED))
@pytest.mark.parametrize("patches", ["convolution", "linear layer"])
def test_maps_are_those_of_the_model_on_normalised_pictures(name, method, patches):
    found, expected = (
        relprop.explain_trace(trace, TARGET, method) for trace in recorded(name, patches)
    )
    assert found.grid == expected.grid and found.sides is None
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-9, atol=1e-12)
    assert expected.relevance.std() > 0 or method == "gradcam"
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-7, atol=1e-10)


@METHODS
def test_of_a_picture_that_the_model_pads_as_well(method, tiny_vit):
    model = tiny_vit(dynamic_img_size=True, dynamic_img_pad=True)
    x = torch.rand(B, 3, 36, 20, generator=torch.Generator().manual_seed(1)).double()
    found = relprop.explain(nn.Sequential(Buffers(), model), x, TARGET, method)
    expected = relprop.explain(model, Buffers()(x), TARGET, method)
    assert found.sides == expected.sides
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-7, atol=1e-10)


MIXED = {
    "by a convolution": nn.Conv2d(3, 3, 1, groups=3).double(),
    "each by its own mean": Function(lambda x: x - x.mean((1, 2, 3), keepdim=True)),
}


@pytest.mark.parametrize("name", MIXED)
def test_of_pixels_that_are_mixed_before_patches_are_cut_maps_are_of_pixels(name):
    """Those of the patches, spread evenly over what a patch sees, and over what that is made of."""
    found = relprop.explain(nn.Sequential(MIXED[name], Plain()), pixels(), TARGET)
    assert found.grid == (12, 12) and found.relevance.std() > 0
    expected = relprop.explain(Plain(), MIXED[name](pixels()).detach(), TARGET).relevance
    spread = expected.view(B, 3, 3).repeat_interleave(4, 1).repeat_interleave(4, 2) / 16
    if name == "each by its own mean":  # half is the pixels' own, half that of their mean
        spread = spread / 2 + spread.mean((1, 2), keepdim=True) / 2
    torch.testing.assert_close(found.relevance, spread.flatten(1), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("method", ["transformer_attribution", "attnlrp", "generic_attention"])
def test_the_deviation_of_all_pixels_is_a_constant_factor(method):
    """As the norms of a global response norm: pixels are as relevant as what they make."""
    x = pixels()
    model = nn.Sequential(Function(lambda x: x / x.std((1, 2, 3), keepdim=True)), Plain())
    scale = x.std((1, 2, 3), keepdim=True)
    constant = nn.Sequential(Function(lambda x: x / scale), Plain())
    found, expected = (relprop.explain(m, x, TARGET, method) for m in (model, constant))
    assert found.grid == expected.grid and found.relevance.std() > 0
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-7, atol=1e-12)
