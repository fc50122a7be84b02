"""The gradient of maps to each parameter by itself, against finite differences."""

import pytest
import torch

import relprop
from tests.helpers.differences import MODELS, both_derivatives, right


@pytest.mark.parametrize("method", relprop.METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_of_each_parameter(name, method):
    """What is as good as nothing beside the others is measured beside the largest."""
    model, inputs = MODELS[name]()
    each = [{name: torch.randn_like(x)} for name, x in model.named_parameters()]
    pairs = both_derivatives(model, inputs, method, *each)
    largest = max(abs(measured) for _, measured in pairs)
    for found, measured in pairs:
        assert largest + found - measured == right(largest, method)
