"""The gradient of maps to each parameter by itself, against finite differences."""

import pytest
import torch

from tests.helpers.differences import MODELS, both_derivatives, right
from tests.helpers.methods import OF_ALL_INPUTS, OF_TEXTS

CASES = [
    (name, method) for name in MODELS for method in (OF_TEXTS if "BERT" in name else OF_ALL_INPUTS)
]


@pytest.mark.parametrize("name, method", CASES)
def test_of_each_parameter(name, method):
    """What is as good as nothing beside the others is measured beside the largest."""
    model, inputs = MODELS[name]()
    each = [{name: torch.randn_like(x)} for name, x in model.named_parameters()]
    pairs = both_derivatives(model, inputs, method, *each, of_steep=1e-8)
    largest = max(abs(measured) for _, measured in pairs)
    for found, measured in pairs:
        assert largest + found - measured == right(largest, method)
