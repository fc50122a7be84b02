"""The fast mode on photographs, with a model that was trained."""

import copy

import pytest
import torch

from benchmarks.precision import PHOTOS, WEIGHTS, correlations, maps, photographs, trained


@pytest.mark.skipif(not (PHOTOS.is_dir() and WEIGHTS.is_file()), reason="no ../shared")
def test_bf16_finds_the_maps_of_float32():
    model, images = trained(), photographs()
    assert len(images) == 200
    float32 = maps(model, images, "float32")
    bf16 = maps(model, images, "bf16", precision="bf16")
    assert not torch.equal(float32, bf16)
    assert correlations(bf16, float32).min() > 0.99
    # From the first block on, the maps of float32 themselves are less sure: at worst 0.984.
    exact = copy.deepcopy(model).double()
    float64 = maps(exact, images.double(), "float64", start_layer=1)
    bf16 = maps(model, images, "bf16", precision="bf16", start_layer=1)
    assert correlations(bf16, float64).median() > 0.998
    assert correlations(bf16, float64).min() > 0.99
