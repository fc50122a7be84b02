"""Losses on maps, against the papers' definitions written with loops."""

import math

import pytest
import torch

import relprop
from relprop.guidance import GUIDANCE_LOSSES

B, SIDE = 3, 4


@pytest.fixture
def maps():
    torch.manual_seed(0)
    return torch.rand(B, SIDE, SIDE, dtype=torch.float64)


@pytest.fixture
def masks():
    """Shares of patches; one of them is whole."""
    masks = torch.rand(B, SIDE, SIDE, dtype=torch.float64)
    masks[0] = masks[0].round()
    return masks


PIXELS = [(row, column) for row in range(SIDE) for column in range(SIDE)]


def share(S, m) -> float:
    """Minus the logarithm of the energy ratio (Rao et al. 2023, eq. 5)."""
    on_object = sum(float(S[p] * m[p]) for p in PIXELS)
    return -math.log(on_object / sum(float(S[p]) for p in PIXELS))


def robustvit(S, m) -> float:
    """2 L_bg + 0.3 L_fg of a map that is scaled to 0..1 (Chefer et al. 2022, eqs. 4 and 5)."""
    low, high = min(float(S[p]) for p in PIXELS), max(float(S[p]) for p in PIXELS)
    background = foreground = 0.0
    for p in PIXELS:
        scaled, mark = (float(S[p]) - low) / (high - low), float(m[p])
        background += (scaled * (1 - mark)) ** 2
        foreground += (scaled * mark - mark) ** 2
    return (2 * background + 0.3 * foreground) / len(PIXELS)


def right_reasons(S, m) -> float:
    """sum (A d sum_k log p_k / dx)^2, with A = 1 off the object (Ross et al. 2017, eq. 2)."""
    return sum(((1 - round(float(m[p]))) * float(S[p]) ** 0.5) ** 2 for p in PIXELS)


@pytest.mark.parametrize("slow", [share, robustvit, right_reasons], ids=lambda f: f.__name__)
def test_a_loss_is_that_of_its_paper(slow, maps, masks):
    if slow is right_reasons:  # which knows no shares
        masks = masks.round()
    expected = sum(slow(S, m) for S, m in zip(maps, masks, strict=True)) / B
    found = relprop.guidance_loss(maps, masks, slow.__name__)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_masks_of_true_and_false_are_ones_and_zeros(maps, masks):
    for kind in GUIDANCE_LOSSES:
        found = relprop.guidance_loss(maps, masks > 0.5, kind)
        assert torch.equal(found, relprop.guidance_loss(maps, (masks > 0.5).double(), kind))


def test_relevance_against_a_class_counts_as_none(maps, masks):
    signed = maps - 0.5
    for kind in GUIDANCE_LOSSES:
        found = relprop.guidance_loss(signed, masks, kind)
        assert torch.equal(found, relprop.guidance_loss(signed.clamp(min=0), masks, kind))


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_maps_that_are_flat_have_a_loss_and_a_gradient_that_are_numbers(value, masks):
    for kind in GUIDANCE_LOSSES:
        flat = torch.full((B, SIDE, SIDE), value, dtype=torch.float64, requires_grad=True)
        loss = relprop.guidance_loss(flat, masks, kind)
        loss.backward()
        assert loss.isfinite() and flat.grad.isfinite().all()


def test_the_share_of_a_map_on_its_object_is_the_whole(maps):
    assert float(relprop.guidance_loss(maps, torch.ones_like(maps))) == 0


def test_samples_without_a_mark_do_not_count(maps, masks):
    known = masks.clone()
    known[1] = 0
    for kind in GUIDANCE_LOSSES:
        found = relprop.guidance_loss(maps, known, kind)
        torch.testing.assert_close(found, relprop.guidance_loss(maps[::2], known[::2], kind))
    assert relprop.guidance_loss(maps, torch.zeros_like(maps)) == 0


def test_masks_of_other_numbers_are_refused(maps):
    with pytest.raises(ValueError, match="masks go from 0 to 255; accepted: bool, or 0 to 1"):
        relprop.guidance_loss(maps, torch.eye(SIDE).expand_as(maps).mul(255).byte())


def test_other_losses_can_be_registered(maps, masks):
    @GUIDANCE_LOSSES.register("outside")
    def outside(S, m):
        return (S * (1 - m)).mean(dim=1)

    try:
        found = relprop.guidance_loss(maps, masks, "outside")
        assert float(found) == pytest.approx(float((maps * (1 - masks)).mean()))
    finally:
        del GUIDANCE_LOSSES["outside"]


def test_another_kind_is_refused_with_those_there_are(maps, masks):
    with pytest.raises(ValueError, match="kind is 'sum'.*accepted: share, robustvit, right_"):
        relprop.guidance_loss(maps, masks, "sum")


@pytest.mark.parametrize("shape", [(B, SIDE), (B, SIDE * SIDE), (1, SIDE, SIDE)])
def test_masks_of_another_shape_are_refused(maps, shape):
    with pytest.raises(ValueError, match=r"masks have shape \[.*\], and maps \[3, 4, 4\]; accept"):
        relprop.guidance_loss(maps, torch.ones(shape))


def test_a_map_without_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"accepted: the same, \[B, ...\]"):
        relprop.guidance_loss(torch.ones(4), torch.ones(4))
