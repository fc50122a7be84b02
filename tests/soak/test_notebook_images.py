"""notebooks/images.ipynb runs from top to bottom, and finds what it claims."""

import re

import pytest

from tests.helpers.notebooks import percent, run


def test_images(monkeypatch):
    printed = run("images.ipynb", monkeypatch)
    assert percent(printed["model"]) > 60
    difference = float(re.search(r"model.explain: (\S+)", printed["product"])[1])
    assert difference < 1e-5
    lines = (line.split() for line in printed["specificity"].splitlines())
    specificity = {method: float(score) for method, score in lines}
    assert specificity["transformer_attribution"] > 0.6
    assert specificity["rollout"] == pytest.approx(0.5, abs=0.01)
