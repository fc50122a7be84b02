"""Runs on graphs: from the command line to explanations, and in two processes."""

import json

import pytest
from PIL import Image

import explain
import train
from configs.schema import load_config
from configs.yaml_text import ConfigError
from lightning_modules.data.graphs.coloured import make_graph
from tests.helpers.processes import finish_two
from tests.helpers.runs import GRAPHS, ONE_EPOCH, curve, rows, run

EXACT = ["model.dropout=0", "trainer.precision=64-true"]
TWO = ["trainer.devices=2", "trainer.strategy=ddp"]
SCRIPT = "import sys, train; train.main(sys.argv[1:])"


def write(path, split: str, count: int) -> str:
    """Coloured graphs as a file."""
    lines = []
    for index in range(count):
        graph, label = make_graph(0, split, index)
        deciding = graph.edges[graph.deciding].tolist()
        row = {"nodes": graph.nodes.tolist(), "edges": graph.edges.tolist(), "deciding": deciding}
        lines.append(json.dumps(row | {"label": ["apart", "meeting"][label]}))
    path.write_text("\n".join(lines))
    return str(path)


def test_graphs_of_files_train_are_scored_and_explained(tmp_path, capsys):
    train_file, val_file = (write(tmp_path / f"{x}.jsonl", x, 48) for x in ("train", "val"))
    config = tmp_path / "experiment.yaml"
    config.write_text(
        "model: {kind: graph, layers: MSP, width: 16, seeds: 2, mlp_width: 16, graph_width: 8}\n"
        f"data: {{kind: graph_jsonl, train: '{train_file}', val: '{val_file}', batch_size: 16}}\n"
        "tracker: {samples: 3}\n"
        "trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false}\n"
    )
    folder = tmp_path / "run"
    train.main([f"--config={config}", f"run_dir={folder}"])
    assert {"relevance/edge_auprc", "relevance/edge_f1"} <= rows(folder)[0].keys()
    assert Image.open(folder / "explanations" / "epoch=000.png").size[0] > 300
    assert f"--input {val_file}" in capsys.readouterr().out
    given = ["--checkpoint", str(folder)]
    scoring = ["--protocol", "edges", "--method", "rollout", "random", "--limit", "8"]
    explain.main(["evaluate", *given, *scoring, "--output", str(tmp_path / "scores")])
    assert "AUPRC" in capsys.readouterr().out
    short = write(tmp_path / "two.jsonl", "test", 2)
    out = tmp_path / "out"
    explain.main([*given, "--input", short, "--output", str(out), "--format", "png,html,json,npz"])
    found = json.loads((out / "explanations.json").read_text())["inputs"]
    for index, entry in enumerate(found):
        graph, _ = make_graph(0, "test", index)
        assert entry["name"] == f"{short}, line {index + 1}" and entry["kind"] == "graph"
        assert entry["edges"] == graph.edges.tolist() and entry["nodes"] == len(graph.nodes)
        assert entry["deciding"] == graph.edges[graph.deciding].tolist()
        assert len(entry["relevance"]["transformer_attribution"][0]) == len(graph.edges)
    assert len(list(out.glob("*.png"))) == 2


def test_other_letters_are_refused_in_a_resume(tmp_path):
    """M and S have the same weights."""
    folder = run(tmp_path / "run", *ONE_EPOCH, "data.train_size=32", experiment="graphs")
    with pytest.raises(SystemExit):
        train.main(["--resume", str(folder), "model.layers=SSPS"])
    with pytest.raises(ConfigError, match='model.layers: "PS" is not accepted; accepted: one'):
        load_config("configs/graph_edges.yaml", ["model.layers=PS"])


def test_two_processes_train_and_track_graphs_as_one(tmp_path):
    """On the same global batches: halves of 16 are the one process's 32."""
    one = run(tmp_path / "one", *EXACT, "trainer.max_epochs=2", experiment="graphs")
    script, two = tmp_path / "script.py", tmp_path / "two"
    script.write_text(SCRIPT)
    options = [*GRAPHS, *EXACT, *TWO, "data.batch_size=16", "trainer.max_epochs=2"]
    for process in finish_two(script, *options, f"run_dir={two}"):
        assert process.returncode == 0, process.stderr[-2000:]
    for tag in ("train/loss", "val/loss", "val/accuracy", "relevance/edge_auprc"):
        expected = curve(one, tag)
        assert curve(two, tag) == [(step, pytest.approx(x, abs=1e-5)) for step, x in expected], tag
