"""The adapter for Quantus that docs/evaluate.md shows."""

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import relprop


@pytest.fixture
def shown():
    """The two pieces of code, and what they take for granted: a model, pictures and labels."""
    text = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text()
    section = text.split("\n## Quantus\n")[1].split("\n## ")[0]
    torch.manual_seed(0)
    given = {
        "model": timm.create_model("test_vit", num_classes=4).eval(),
        "images": torch.randn(3, 3, 160, 160),
        "labels": torch.tensor([0, 3, 1]),
    }
    return re.findall("```python\n(.+?)```", section, re.DOTALL), given


def test_the_adapter_gives_a_map_for_each_label(shown):
    (adapter, _), given = shown
    exec(adapter, given)
    inputs, targets = given["images"].numpy(), given["labels"].numpy()
    found = given["maps"](given["model"], inputs, targets, method="attnlrp", device="cpu")
    assert isinstance(found, np.ndarray) and found.shape == (3, 1, 160, 160)
    for i, label in enumerate(targets.tolist()):
        own = relprop.explain(given["model"], given["images"][i : i + 1], label, "attnlrp")
        np.testing.assert_allclose(found[i, 0], own.heatmap(160)[0], rtol=1e-3, atol=1e-6)


def test_quantus_scores_by_the_adapter(shown):
    pytest.importorskip("quantus", reason="quantus is not installed")
    (adapter, use), given = shown
    exec(adapter, given)
    exec(use, given)
    assert len(given["scores"]) == 3 and np.isfinite(given["scores"]).all()
