"""Losses on what differs from a teacher, against published values and their definitions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules.distillation import attention_transfer, kept_decisions

FILE = Path(__file__).parents[1] / "reference" / "seeds" / "sats.npz"
STAGES = 4


@pytest.fixture(scope="module")
def reference():
    with np.load(FILE) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


def maps(reference, stage: int) -> tuple[Tensor, Tensor, int]:
    """Attention of a stage now and before, [B, H, L, S], and the side of its grid."""
    found = reference[f"new{stage}"], reference[f"old{stage}"]
    return *found, int(reference["stage_grids"][stage])


def regions(labels: Tensor, grid: int) -> Tensor:
    """The queries of each of the classes 1 to 7 on a grid, bool [B, 7, L]."""
    place = ((torch.arange(grid) + 0.5) * labels.shape[-1] / grid).long()
    nearest = labels[:, place][:, :, place].flatten(1)
    return torch.stack([nearest == of_class for of_class in range(1, 8)], dim=1)


def scrambled(A: Tensor, grid: int) -> Tensor:
    """What the published reshape without a permutation takes for [B, H, L, S]."""
    B, H, L, S = A.shape
    return A.reshape(B, grid, grid, H, S).permute(0, 3, 1, 2, 4).reshape(B, H, L, S)


def of_regions(A: Tensor, of_teacher: Tensor, labels: Tensor, grid: int) -> Tensor:
    """The loss of each image, written with loops."""
    place = [int((i + 0.5) * labels.shape[-1] / grid) for i in range(grid)]
    losses = []
    for image in range(len(A)):
        classes = [int(labels[image, y, x]) for y in place for x in place]
        of_class = []
        for c in sorted(set(classes) - {0, 255}):
            rows = [q for q, label in enumerate(classes) if label == c]
            of_head = []
            for h in range(A.shape[1]):
                ours = sum(A[image, h, q] for q in rows) / len(rows)
                theirs = sum(of_teacher[image, h, q] for q in rows) / len(rows)
                of_head.append((ours - theirs).square().sum().sqrt())
            of_class.append(sum(of_head) / len(of_head))
        losses.append(sum(of_class) / len(of_class) if of_class else torch.zeros(()).double())
    return torch.stack(losses)


def test_the_published_values_are_those_of_heads_and_places_that_are_mixed_up(reference):
    """Of 2 and more heads the published code takes other rows than those of the class."""
    by_class, of_all = 0.0, 0.0
    for stage in range(STAGES):
        A, before, grid = maps(reference, stage)
        A, before = scrambled(A, grid), scrambled(before, grid)
        by_class += attention_transfer(A, before, regions(reference["labels"], grid)).mean()
        everything = torch.ones(len(A), 1, A.shape[2], dtype=torch.bool)
        of_all += attention_transfer(A, before, everything).mean()
    same(by_class / STAGES, reference["loss_sats_selfattn"][0])
    same(of_all / STAGES, reference["loss_sats_selfattn_GP"][0])


def test_without_pooling_the_published_value_is_that_of_the_formula(reference):
    """What is not pooled does not hang on which row is whose."""
    total = 0.0
    for stage in range(STAGES):
        A, before, _ = maps(reference, stage)
        total += attention_transfer(A, before, torch.eye(A.shape[2]).bool()[None]).mean()
    same(total / STAGES, reference["loss_sats_selfattn_NP"][0])


@pytest.mark.parametrize("stage", range(STAGES))
def test_the_loss_is_that_of_the_formula(reference, stage):
    A, before, grid = maps(reference, stage)
    found = attention_transfer(A, before, regions(reference["labels"], grid))
    expected = of_regions(A, before, reference["labels"], grid)
    same(found, expected)
    assert found[-1] == 0  # all of the last image is background
    mixed_up = attention_transfer(
        scrambled(A, grid), scrambled(before, grid), regions(reference["labels"], grid)
    )
    assert torch.equal(found, mixed_up) == (A.shape[1] == 1)


def test_the_gradient_of_a_student_that_is_the_teacher_is_0():
    """As it is in the first step: the root of 0 has no derivative."""
    A = torch.rand(2, 3, 5, 5, requires_grad=True)
    regions = torch.ones(2, 1, 5, dtype=torch.bool)
    attention_transfer(A, A.detach(), regions).sum().backward()
    assert torch.equal(A.grad, torch.zeros_like(A))


def test_decisions_are_kept_among_the_classes_of_the_teacher():
    ours, theirs = torch.randn(4, 7).double(), torch.randn(4, 3).double()
    expected = []
    for z, before in zip(ours.tolist(), theirs.tolist(), strict=True):
        p = np.exp(z[:3]) / sum(np.exp(z[:3]))
        p_before = np.exp(before) / sum(np.exp(before))
        expected.append(-sum(a * np.log(b) for a, b in zip(p_before, p, strict=True)))
    same(kept_decisions(ours, theirs), torch.tensor(expected))
