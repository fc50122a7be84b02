"""MUTAG as it is read for the benchmark, its nitro groups, its folds, and the table."""

import json
from collections import Counter

import pytest
import torch

pytest.importorskip("grakel")
pytest.importorskip("torch_geometric")
from benchmarks import molecules, mutag  # noqa: E402
from benchmarks.gine import GINEClassifier  # noqa: E402
from lightning_modules.data.graphs.batches import GraphCollator, input_config_of  # noqa: E402
from lightning_modules.data.graphs.graph import read_graph  # noqa: E402


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return molecules.molecules()


def test_molecules_are_those_of_the_files(rows):
    """By counting lines: atoms and bonds of each molecule, and the labels."""
    read = {x: (molecules.MUTAG / f"MUTAG_{x}.txt").read_text().split("\n") for x in
            ("A", "graph_indicator", "graph_labels", "node_labels")}  # fmt: skip
    of_node = [int(x) for x in read["graph_indicator"] if x]
    atoms, bonds = Counter(of_node), Counter()
    for line in filter(None, read["A"]):
        bonds[of_node[int(line.split(",")[0]) - 1]] += 1
    labels = [int(x) for x in read["graph_labels"] if x]
    symbols = [int(x) for x in read["node_labels"] if x]
    assert len(rows) == 188 and sum(row["label"] == "mutagenic" for row in rows) == 125
    start = 0
    for number, row in enumerate(rows, start=1):
        assert len(row["nodes"]) == atoms[number] and 2 * len(row["edges"]) == bonds[number]
        assert row["label"] == molecules.NAMES[labels[number - 1]]
        of_row = [features.index(1) for features in row["nodes"]]
        assert of_row == symbols[start : start + atoms[number]]
        start += atoms[number]
        read_graph(row, "a molecule", directed=False)


def test_nitro_groups_are_nitrogens_with_two_oxygens():
    C, N, O = (molecules.ATOMS.index(x) for x in "CNO")  # noqa: E741
    atoms = [C, N, O, O, N, O, N, C]
    bonds = [[0, 1], [2, 1], [1, 3], [0, 4], [4, 5], [6, 7]]
    assert molecules.nitro(atoms, bonds) == [[2, 1], [1, 3]]


def test_every_molecule_is_tested_once_and_never_in_two_parts(tmp_path, rows):
    molecules.write_folds(tmp_path)
    tested = []
    for fold in range(molecules.FOLDS):
        parts = {}
        for split in ("train", "val", "test"):
            lines = (tmp_path / "folds" / f"{split}-{fold}.jsonl").read_text().splitlines()
            parts[split] = [json.loads(line) for line in lines]
        tested += parts["test"]
        assert sum(map(len, parts.values())) == len(rows)
    key = sorted(map(json.dumps, rows))
    assert sorted(map(json.dumps, tested)) == key


def test_gine_takes_the_nodes_and_edges_of_a_batch_graph_by_graph(rows):
    graphs = [read_graph(row, "a molecule", False) for row in rows[:3]]
    config = input_config_of(graphs[0])
    torch.manual_seed(0)
    module = GINEClassifier(["a", "b"], config, width=8, depth=2).eval()
    collate = GraphCollator(False)
    items = [{"graph": graph, "label": 0} for graph in graphs]
    logits = module(collate(items))
    alone = torch.cat([module(collate([item])) for item in items])
    torch.testing.assert_close(logits, alone)
    given = module.inputs(collate(items[1:2]))
    assert torch.equal(given["edge_index"][:, ::2].T, torch.from_numpy(graphs[1].edges))
    assert torch.equal(given["edge_attr"][::2], torch.from_numpy(graphs[1].edge_features))


def test_rows_are_kept_and_the_difference_is_paired_by_seed_and_fold(monkeypatch, tmp_path, capsys):
    done = []

    def trained(arm, seed, fold, output, *options):
        done.append((arm, seed, fold))
        return {"ESA": 0.75, "GINE": 0.5}[arm] + fold / 10

    monkeypatch.setattr(mutag, "trained", trained)
    monkeypatch.setattr(mutag, "figures", lambda arm, ended, folder: {"accuracy": ended})
    wanted = (["ESA", "GINE"], [0], [0, 1], tmp_path, [])
    mutag.measure(*wanted)
    printed = capsys.readouterr().out
    assert "| ESA | 1 | 2 | 80.0 ± 0.0 | 7.1 |" in printed
    assert "| ESA, less GINE | +25.0" in printed
    mutag.measure(*wanted)
    assert len(done) == 4
    with pytest.raises(SystemExit, match="other --options"):
        mutag.measure(*wanted[:4], ["trainer.max_epochs=1"])
