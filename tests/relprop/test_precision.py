"""The fast mode on photographs, with a model that was trained."""

import copy

import pytest
import torch
from torch import Tensor

from benchmarks.precision import PHOTOS, WEIGHTS, correlations, maps, photographs, trained

needs_photographs = pytest.mark.skipif(
    not (PHOTOS.is_dir() and WEIGHTS.is_file()), reason="no ../shared"
)


def check_bf16(images: Tensor) -> None:
    """Maps of bf16 are those of float32, and as near to float64's as those are.

    How near float32 is itself depends on the processor, whose products round in another order.
    """
    model = trained()
    float32 = maps(model, images, "float32")
    bf16 = maps(model, images, "bf16", precision="bf16")
    assert not torch.equal(float32, bf16)
    assert correlations(bf16, float32).min() > 0.99
    exact = copy.deepcopy(model).double()
    float64 = maps(exact, images.double(), "float64")
    of_bf16, of_float32 = correlations(bf16, float64), correlations(float32, float64)
    assert (of_bf16 > of_float32 - 0.01).all()
    assert of_bf16.median() > 0.998


@needs_photographs
def test_bf16_finds_the_maps_of_float32():
    """On two photographs a class; all of them are in tests/soak: some processors emulate bf16."""
    images = photographs()[::10]
    assert len(images) == 20
    check_bf16(images)
