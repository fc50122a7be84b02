"""The benchmark runs, and says what it measured; no figure of it is tested."""

import re
from functools import partial

import pytest
import timm

from benchmarks.__main__ import main
from benchmarks.explanations import by_method
from benchmarks.peers import peers
from benchmarks.table import COLUMNS, Table
from benchmarks.throughput import throughput
from benchmarks.training import by_tracked_method
from lightning_modules import ViTClassifier
from lightning_modules.data import DigitsDataModule
from tests.helpers.measured import run_here
from tests.helpers.methods import OF_ALL_INPUTS

ONE_ROW = ["explain", "--models", "deit_tiny", "--batches", "1", "--rounds", "1"]
ONE_ROW += ["--methods", "rollout"]


@pytest.fixture
def shallow(monkeypatch) -> None:
    """What is measured has 2 blocks, where no process of its own measures it."""
    build = partial(timm.create_model, "deit_tiny_patch16_224", depth=2)
    monkeypatch.setattr("benchmarks.models.build", lambda *name: build().eval())


def rows(printed: str) -> dict[str, list[str]]:
    """The cells of each row of the table, by its first."""
    lines = [line.strip("|").split(" | ") for line in printed.splitlines() if "|" in line]
    assert {len(cells) for cells in lines} == {len(COLUMNS)}
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def check_one_row(printed: str) -> None:
    """Times and memory of one method."""
    found = rows(printed)
    assert (
        "**deit_tiny, batch 1, over a forward pass; memory over autograd's forward and backward**"
        in found
    )
    taken, ratio, memory, _ = found["rollout"]
    assert float(taken.replace(",", "")) > 0
    assert re.fullmatch(r"\d+\.\d\d", ratio)
    assert re.fullmatch(r"\d+ \(\d+\.\d\d\)", memory)


def test_one_command_one_table(shallow, monkeypatch, capsys):
    """Memory is measured in tests/soak, in a process of its own."""
    monkeypatch.setattr("benchmarks.explanations.peak_memory", run_here)
    monkeypatch.setattr("sys.argv", ["benchmarks", *ONE_ROW])
    main()
    check_one_row(capsys.readouterr().out)


def test_rows_of_every_method(shallow, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.explanations.peak_memory", lambda *arguments: 2**20)
    by_method(Table(), ["deit_tiny"], OF_ALL_INPUTS, [1], 1)
    assert {"a forward pass", "the same, precision=bf16", *OF_ALL_INPUTS} < set(
        rows(capsys.readouterr().out)
    )


def test_ratios_are_those_of_each_round(capsys):
    Table().row("what", [1.0, 3.0, 8.0], [1.0, 1.0, 2.0], (3 * 2**20, 2 * 2**20), "a | b\nc")
    found = rows(capsys.readouterr().out)["what"]
    assert found == ["3,000.0", "3.00 (2.00 - 3.50)", "3 (1.50)", r"a \| b c"]


def test_ctrl_c_ends_in_one_line(monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.peers.peers", interrupted)
    monkeypatch.setattr("sys.argv", ["benchmarks", "peers"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 130 and capsys.readouterr().err.count("\n") == 1


def test_rows_of_throughput(shallow, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.throughput.product_rate", lambda: 1e12)
    monkeypatch.setattr("benchmarks.throughput.peak_memory", lambda *arguments: 2**20)
    throughput(Table(), "deit_tiny", [2], 1)
    found = rows(capsys.readouterr().out)
    assert "1,000 GFLOPS" in found["**deit_tiny, over a forward pass, memory too**"][-1]
    assert "images a second" in found["batch 2, a forward pass"][-1]


def test_a_report_of_the_tracker_is_timed_by_each_method():
    data = DigitsDataModule(train_size=4, val_size=4, test_size=4, pairs_size=4)
    model = ViTClassifier(data.class_names, data.input_config, "test_vit")
    times = by_tracked_method(model, data, rounds=2, samples=2)
    assert {"transformer_attribution", "attnlrp"} < set(times)
    assert all(len(found) == 2 and min(found) > 0 for found in times.values())


def test_a_peer_that_is_missing_is_named(shallow, monkeypatch, capsys):
    def missing(model, x):
        raise ImportError("no such library")

    monkeypatch.setattr("benchmarks.peers.LIBRARIES", {"autolrp": missing})
    peers(Table(), 1, 1)
    found = rows(capsys.readouterr().out)
    assert "autolrp: ImportError: no such library" in found["not measured"][-1]
    assert "relprop, transformer_attribution" in found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "section 'speed'; accepted: training, explain, growth"),
        (["explain", "--batches", "0"], "--batches: '0'; accepted: a whole number, 1 or more"),
        (["explain", "--rounds", "-1"], "--rounds: '-1'; accepted: a whole number, 1 or more"),
        (["explain", "--methods", "lpr"], "--methods: invalid choice: 'lpr' (choose from"),
        (["training", "--models", "vit_base"], "--models is of explain, which is not measured"),
    ],
)
def test_wrong_arguments(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    line, end = capsys.readouterr().err.split("\n")
    assert stop.value.code == 2 and message in line and not end
