"""MUTAG's molecules as graphs, and its ten folds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grakel
from sklearn.model_selection import StratifiedKFold
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.io import read_tu_data

MUTAG = Path(grakel.__file__).parent / "tests" / "data" / "MUTAG"
ATOMS = ["C", "N", "O", "F", "I", "Cl", "Br"]
NAMES = {-1: "harmless", 1: "mutagenic"}
FOLDS = 10


def molecules() -> list[dict[str, Any]]:
    """The 188 molecules as JSON objects, each bond once, those of nitro groups as ``deciding``."""
    data, slices, _ = read_tu_data(str(MUTAG), "MUTAG")
    counts = range(len(slices["y"]) - 1)
    labels = (MUTAG / "MUTAG_graph_labels.txt").read_text().split()
    return [molecule(part(data, slices, i), int(labels[i])) for i in counts]


def part(data: Data, slices: Mapping[str, Tensor], i: int) -> tuple[Tensor, Tensor, Tensor]:
    """Atoms [N, 7], bonds [2, E] and their kinds [E, 4] of one molecule."""
    nodes, edges = (slice(*slices[x][i : i + 2].tolist()) for x in ("x", "edge_index"))
    return data.x[nodes], data.edge_index[:, edges], data.edge_attr[edges]


def molecule(given: tuple[Tensor, Tensor, Tensor], label: int) -> dict[str, Any]:
    x, index, kinds = given
    once = index[0] < index[1]
    bonds = index[:, once].T.tolist()
    return {
        "nodes": x.tolist(),
        "edges": bonds,
        "edge_features": kinds[once].tolist(),
        "label": NAMES[label],
        "deciding": nitro(x.argmax(dim=1).tolist(), bonds),
    }


def nitro(atoms: list[int], bonds: list[list[int]]) -> list[list[int]]:
    """The bonds between an N and an O, of each N that has two of them."""
    of_nitrogen: dict[int, list[list[int]]] = {}
    for bond in bonds:
        symbols = [ATOMS[atoms[x]] for x in bond]
        if sorted(symbols) == ["N", "O"]:
            of_nitrogen.setdefault(bond[symbols.index("N")], []).append(bond)
    return [bond for found in of_nitrogen.values() if len(found) == 2 for bond in found]


def write_folds(output: Path) -> None:
    """The molecules of each fold in a file, ``OUTPUT/folds/train-3.jsonl`` and so on."""
    rows, folder = molecules(), output / "folds"
    folder.mkdir(parents=True, exist_ok=True)
    dealt = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    parts = [part for _, part in dealt.split(rows, [row["label"] for row in rows])]
    for fold in range(FOLDS):
        test, val = parts[fold].tolist(), parts[(fold + 1) % FOLDS].tolist()
        train = [i for i in range(len(rows)) if i not in {*test, *val}]
        for split, chosen in {"train": train, "val": val, "test": test}.items():
            lines = "".join(json.dumps(rows[i]) + "\n" for i in chosen)
            (folder / f"{split}-{fold}.jsonl").write_text(lines)
