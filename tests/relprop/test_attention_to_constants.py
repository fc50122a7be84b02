"""Attention to what does not depend on the input, a memory or prototypes, is of each token alone.

It leads to no tokens of the input, so it is no factor of the product of attention maps.
"""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from tests.helpers.maps import Softmaxes, gradients
from tests.helpers.methods import OF_ALL_INPUTS

B, C, M, WIDTH = 2, 3, 20, 16  # samples, classes, items of a class's memory, channels


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v


def in_one_call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q.expand(-1, C, -1, -1), k, v)


KEPT = (torch.arange(M) < 15).view(1, 1, 1, M)  # of each memory


def masked_by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return torch.where(KEPT, scores, -torch.inf).softmax(dim=-1) @ v


def masked_in_one_call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q.expand(-1, C, -1, -1), k, v, attn_mask=KEPT)


class Memory(nn.Module):
    """A ViT whose logits are distances of its tokens from what they find in a memory a class."""

    def __init__(self, attend) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.trunk = timm.create_model(
                *("vit_tiny_patch16_224",),
                **{"img_size": 16, "patch_size": 4, "embed_dim": WIDTH, "depth": 2},
                **{"num_heads": 2, "num_classes": 0, "class_token": False, "global_pool": ""},
            )
            self.key, self.value = (nn.Linear(WIDTH, 8, bias=False) for _ in range(2))
            self.memory = torch.randn(C, M, WIDTH, dtype=torch.float64)
        self.attend = attend
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        k, v = (f(self.memory).expand(len(x), -1, -1, -1) for f in (self.key, self.value))
        q, w = self.key(x)[:, None], self.value(x)[:, None]
        return -(w - self.attend(q, k, v)).square().sum(dim=-1).mean(dim=-1)


@pytest.fixture(params=[by_hand, in_one_call])
def model(request) -> Memory:
    return Memory(request.param).eval()


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, 3, 16, 16, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("attend", [masked_by_hand, masked_in_one_call])
def test_a_part_of_the_memory_may_be_masked(images, attend):
    masked, shorter = Memory(attend).eval(), Memory(by_hand).eval()
    shorter.memory = shorter.memory[:, :15]
    found, expected = (
        relprop.explain_classes(relprop.record(x, images), range(C)) for x in (masked, shorter)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.relevance, other.relevance)


def test_the_maps_of_a_model_are_those_of_its_own_blocks(model, images):
    trace = relprop.record(model, images)
    assert [tuple(A.shape) for A in trace.attention] == [(B, 2, 16, 16)] * 2
    torch.testing.assert_close(trace.logits, model(images))


@pytest.mark.parametrize("method", sorted({*OF_ALL_INPUTS} - {"gradcam"}))  # it may be clamped to 0
def test_each_class_has_a_map(model, images, method):
    trace = relprop.record(model, images)
    found = relprop.explain_classes(trace, range(C), method)
    assert all(x.relevance.isfinite().all() and x.relevance.any() for x in found)


@pytest.mark.parametrize("target", range(C))
def test_a_map_is_a_product_read_where_the_distance_is_decided(model, images, target):
    """Token p weighs ||w_p - t_p||^2 of the class's distance; below are the blocks' (I + C)."""
    for block in model.trunk.blocks:
        block.attn.fused_attn = False
    with Softmaxes() as seen:
        x = model.trunk(images)
    w, kept = model.value(x), model.memory[target]
    t = by_hand(model.key(x), model.key(kept), model.value(kept))
    apart = (w - t).square().sum(dim=-1)
    row = apart / apart.sum(dim=-1, keepdim=True)
    maps = seen.maps
    for A, G in zip(reversed(maps), reversed(gradients(-apart.mean(dim=-1), maps)), strict=True):
        row = row + torch.einsum("bn,bnm->bm", row, (A * G).relu().mean(dim=1))
    trace, classes = relprop.record(model, images), torch.full((B,), target)
    found = relprop.explain_trace(trace, target, "generic_attention").relevance
    torch.testing.assert_close(found, row, rtol=1e-7, atol=1e-10)
    share = trace.token_weights(classes)
    torch.testing.assert_close(share, (apart / apart.sum(dim=-1, keepdim=True)).detach())


def test_values_of_the_input_make_a_map_of_attention_to_constants(images):
    """Keys alone are constants: where the weights lead is where the values are from."""

    class Mixed(Memory):
        def forward(self, x: Tensor) -> Tensor:
            x = self.trunk(x)
            k = self.key(self.memory[0, :16]).expand(len(x), 1, -1, -1)
            x = by_hand(self.key(x)[:, None], k, self.value(x)[:, None])[:, 0]
            return x.mean(dim=1)

    trace = relprop.record(Mixed(None).eval(), images)
    assert [tuple(A.shape[1:]) for A in trace.attention] == [(2, 16, 16)] * 2 + [(1, 16, 16)]
    assert relprop.explain_trace(trace, 0).relevance.any()
