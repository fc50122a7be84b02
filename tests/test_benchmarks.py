"""The benchmark runs, and says what it measured; no figure of it is tested."""

import subprocess
import sys
from pathlib import Path

import pytest

import relprop
from benchmarks.__main__ import main
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
    for method in ("precision=bf16", *relprop.METHODS):
        assert method in ended.stdout


def test_a_table_of_throughput(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.throughput.product_rate", lambda: 1e12)
    throughput("deit_tiny", [2], 1)
    table = capsys.readouterr().out
    assert "1,000 GFLOPS" in table and "batch 2, forward pass" in table and "MiB" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "section 'speed'; accepted: training, explain, growth"),
        (["explain", "--batches", "0"], "--batches: '0'; accepted: a whole number, 1 or more"),
        (["explain", "--rounds", "-1"], "--rounds: '-1'; accepted: a whole number, 1 or more"),
        (["explain", "--methods", "lpr"], "--methods: invalid choice: 'lpr' (choose from"),
    ],
)
def test_wrong_arguments(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    line, end = capsys.readouterr().err.split("\n")
    assert stop.value.code == 2 and message in line and not end
