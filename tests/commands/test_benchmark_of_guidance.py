"""The benchmark of guided steps runs, and says what it measured; no figure of it is tested."""

import re
from functools import partial

import torch

from benchmarks import guidance
from benchmarks.table import Table
from tests.helpers.measured import run_here


def test_rows_of_guided_steps(monkeypatch, capsys):
    """Each by its time, its matrix products, and the memory of so many samples."""
    monkeypatch.setattr(guidance, "SIDE", 32)
    monkeypatch.setattr(guidance, "classifier", partial(guidance.classifier, depth=2))
    monkeypatch.setattr(
        "benchmarks.models.inputs", lambda name, batch: torch.randn(batch, 3, 32, 32)
    )
    monkeypatch.setattr(guidance, "peak_memory", run_here)
    guidance.guided_steps(Table(), 1, [1, 2], batch=2)
    printed = capsys.readouterr().out
    rows = {line.split(" | ")[0].strip("| "): line for line in printed.splitlines()}
    assert {"a plain step", *guidance.GUIDED} < set(rows)
    for name in guidance.GUIDED:
        assert float(re.search(r"matrix products: (\d\.\d\d)", rows[name])[1]) > 1
    for name in guidance.BY_SAMPLES:
        assert all("1 (1.00)" in rows[f"{name}, samples={count}"] for count in (1, 2))
