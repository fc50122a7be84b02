"""The benchmark runs, and says what it measured; no figure of it is tested."""

import subprocess
import sys
from pathlib import Path

from benchmarks.throughput import throughput

ROOT = Path(__file__).parents[1]


def benchmarks(*arguments):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_table_by_method():
    small = ["--models", "deit_tiny", "--batches", "1", "--rounds", "1", "--no-memory"]
    ended = benchmarks("explain", *small)
    assert ended.returncode == 0, ended.stderr
    assert "deit_tiny, batch 1: a forward pass takes" in ended.stdout
    for method in ("transformer_attribution", "precision=bf16", "generic_attention", "rollout"):
        assert method in ended.stdout


def test_a_table_of_throughput(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.throughput.product_rate", lambda: 1e12)
    throughput("deit_tiny", [2], 1)
    table = capsys.readouterr().out
    assert "1,000 GFLOPS" in table and "batch 2, forward pass" in table and "MiB" in table


def test_an_unknown_section():
    ended = benchmarks("speed")
    assert ended.returncode == 2
    assert "speed; accepted: training, explain, growth" in ended.stderr
