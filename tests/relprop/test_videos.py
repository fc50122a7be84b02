"""Videos [B, C, T, H, W] or [B, T, C, H, W], cut into blocks by a convolution."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import relprop
from tests.helpers.methods import OF_ALL_INPUTS
from tests.helpers.plain import B, C, Plain, pixels


@pytest.mark.parametrize("method", OF_ALL_INPUTS)
@pytest.mark.parametrize("frames_first", [False, True])
def test_relevance_is_of_each_block(method, frames_first):
    """As of a picture of which the frames are the patches."""

    def tokens(self, x):
        x = x.transpose(1, 2) if frames_first else x
        x = F.conv3d(x, self.embed.weight[:, :, None], self.embed.bias, (1, 4, 4))
        x = x.flatten(2).transpose(1, 2)
        return torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1) + self.position

    patches = F.unfold(pixels(), 4, stride=4).unflatten(1, (3, 4, 4))  # [B, C, 4, 4, frames]
    video = patches.permute(0, 4, 1, 2, 3) if frames_first else patches.permute(0, 1, 4, 2, 3)
    found = relprop.explain(Plain(tokens=tokens), video.contiguous(), 1, method)
    assert found.grid is None and found.relevance.shape == (B, 9)
    if method == "gradcam":  # it takes its mean over a grid of patches, where there is one
        return
    expected = relprop.explain(Plain(), pixels(), 1, method).relevance
    if relprop.METHODS[method].pixels:
        expected = F.avg_pool2d(expected.view(B, 1, 12, 12), 4).flatten(1) * 16
    torch.testing.assert_close(found.relevance, expected)


@pytest.mark.parametrize("method", ["attnlrp", "lrp"])
def test_blocks_that_overlap_are_refused(method):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(3, C, 2)

        def forward(self, x):
            return self.conv(x).mean((2, 3, 4))

    with pytest.raises(relprop.UnsupportedModel, match="blocks of a video overlap; accepted: "):
        relprop.explain(Network(), torch.rand(B, 3, 4, 5, 6), 1, method)
