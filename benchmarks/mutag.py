"""MUTAG: Edge-Set Attention beside a message-passing network (GINE) on the same ten folds.

python -m benchmarks.mutag                           (ten folds, three seeds)
python -m benchmarks.mutag --seeds 0 --folds 0 --options trainer.max_epochs=2 --output FOLDER

188 molecules, mutagenic or not, of the package grakel (pip install grakel torch_geometric). Of ten
folds one is tested, the next one chooses the epoch (by 18 or 19 molecules alone), and the other
eight are trained on: all models by the same loop, with the same optimiser and schedule. ESA
normalises before, "ESA, post" after, as published. Controls: GINE whose graph is the mean of its
atoms and not their sum, GINE whose atoms take the mean of their neighbours as well, and a logistic
regression on the number of bonds. Of ESA a row has, beside the accuracy, the share of positive
relevance for "mutagenic" that lies on the bonds of nitro groups (an N with two O), and what share
of the bonds they are; each of the mutagenic and of the harmless molecules apart. Every molecule has
such a group, the harmless ones as well: the share tells what a map looks at, and not whether it is
right. Rows are kept in OUTPUT/rows.jsonl as soon as they are measured, and a second call goes on
there. OUTPUT/molecules.png has test molecules of the first fold, nitro groups marked.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.arms_report import deviation, interval
from benchmarks.by_seed import print_row
from benchmarks.gine import GINEClassifier
from benchmarks.kept_rows import KeptRows, Row, Rows, folder_name
from benchmarks.molecules import ATOMS, FOLDS, NAMES, write_folds
from configs.schema import complete_config
from lightning_modules.data.graphs.graph import Graph
from lightning_modules.experiment import Ended, experiment
from lightning_modules.modalities import Graphs
from lightning_modules.models.classifier import CLASSIFIERS
from lightning_modules.tasks import Caption
from lightning_modules.utils.cli import Parser

BONDS = "number of bonds"  # an arm: a logistic regression on that alone
SHARED = {"lr": 1e-3, "weight_decay": 1e-4}
SIZES = {"width": 64, "heads": 4, "seeds": 8, "mlp_width": 128, "embed_width": 64}
ARMS = {
    "ESA": {"kind": "graph", "layers": "MMSP", "norm": "pre", "graph_width": 64, "dropout": 0.1},
    "GINE": {"kind": "gine"},
    "GINE, mean": {"kind": "gine", "pool": "mean"},
    "GINE, means": {"kind": "gine", "pool": "mean", "aggregate": "mean"},
    BONDS: {},
}
ARMS["ESA"] |= SIZES
ARMS["ESA, post"] = {**ARMS["ESA"], "norm": "post"}
PAIRS = [("ESA, post", "ESA"), ("ESA", "GINE"), ("ESA", "GINE, means"), ("ESA", BONDS)]
PAIRS += [(arm, "GINE") for arm in ("GINE, mean", "GINE, means", BONDS)]
METHODS = {"transformer_attribution": "attribution", "attnlrp": "attnlrp"}  # and their titles
BASE = "bonds"  # the share of bonds that are in nitro groups
SHOWN = 4


def trained(arm: str, seed: int, fold: int, output: Path, *options: str) -> Ended:
    """A run on a fold, tested with the weights of its best validated epoch."""
    files = {x: str(output / "folds" / f"{x}-{fold}.jsonl") for x in ("train", "val", "test")}
    config = {
        "run_dir": str(output / folder_name(arm, seed, fold)),
        "seed": seed,
        "model": {**ARMS[arm], **SHARED},
        "data": {"kind": "graph_jsonl", "node_names": ATOMS, "batch_size": 32, **files},
        "tracker": None,
        "loggers": {},
        "trainer": {"max_epochs": 60, "gradient_clip_val": 0.5, "log_every_n_steps": 1},
    }
    for option in options:
        key, value = option.split("=", 1)
        section, name = key.split(".")
        config[section][name] = json.loads(value)
    return experiment(complete_config(config), None)


def figures(arm: str, ended: Ended, folder: Path) -> dict[str, float]:
    """What a row has."""
    found = {"accuracy": ended.tested["test/accuracy"]}
    if arm != "ESA":
        return found
    module, data = ended.model.eval(), ended.data
    items = [x for x in data.test_dataset.items if x["graph"].deciding.any()]
    if not items:
        return found
    batch = data.collate(items)
    trace, marks = module.record(batch), batch["deciding"].float()
    target = torch.full((len(items),), data.class_names.index(NAMES[1]))
    shares = {}
    for method, title in METHODS.items():
        (of,) = module.explain_sources(trace, batch, [target], method)
        positive = of["graph"].edge_scores.clamp(min=0)
        shares[title] = (positive * marks).sum(dim=1) / positive.sum(dim=1)
    shares[BASE] = marks.sum(dim=1) / of["graph"].counts
    for label, name in enumerate(data.class_names):
        chosen = batch["label"] == label
        # NaN: nothing is positive.
        found |= {key(x, name): float(share[chosen].nanmean()) for x, share in shares.items()}
    draw(ended, items[:SHOWN], folder / "molecules.png")
    return found


def by_bonds(fold: int, output: Path) -> dict[str, float]:
    """The accuracy of a logistic regression on the number of bonds."""
    counts, labels = {}, {}
    for split in ("train", "test"):
        lines = (output / "folds" / f"{split}-{fold}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        counts[split] = [[len(row["edges"])] for row in rows]
        labels[split] = [row["label"] for row in rows]
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(counts["train"], labels["train"])
    return {"accuracy": model.score(counts["test"], labels["test"])}


def key(of: str, name: str) -> str:
    """What a row calls a share in the molecules of a class."""
    return f"on nitro, {of}, {name}"


class Molecules(Graphs):
    def marks_shown(self, content: Graph) -> str:
        return "nitro in green"


def draw(ended: Ended, items: list[dict], path: Path) -> None:
    """Molecules with nitro groups, and their maps for "mutagenic"."""
    module, names = ended.model, ended.data.class_names
    batch = ended.data.collate(items)
    target = torch.full((len(items),), names.index(NAMES[1]))
    trace = module.record(batch)
    true = [names[x] for x in batch["label"].tolist()]
    p = trace.logits.softmax(dim=1)[:, target[0]].tolist()
    found, captions = [], []
    for method, title in METHODS.items():
        (of,) = module.explain_sources(trace, batch, [target], method)
        # Of both methods what speaks for the class.
        found.append(of["graph"].with_relevance(of["graph"].relevance.clamp(min=0)))
        pairs = zip(true, p, strict=True)
        captions.append([Caption(title, f"{x}, p = {y:.2f}") for x, y in pairs])
    modality = Molecules("graph", ended.data.input_config)
    heading = "Why mutagenic? p of that, under the true class"
    Image.fromarray(modality.samples_picture(batch, found, captions, heading, False)).save(path)


def print_tables(rows: Rows) -> None:
    """Accuracy: of each seed the mean of its folds; their mean and standard deviation over seeds.

    "over folds": the standard deviation over folds of the mean of seeds. Then differences paired by
    seed and fold, and the shares on nitro groups, less that of the bonds. Intervals are over the
    folds, for seeds of one fold share their molecules; folds share molecules that are trained on,
    so that the intervals are too narrow.
    """
    print_row("arm", "seeds", "folds", "accuracy", "over folds")
    print_row(*["---"] * 5)
    of = {(r["arm"], r["seed"], r["fold"]): r["accuracy"] for r in rows}
    for arm in ARMS:
        of_arm = [row for row in rows if row["arm"] == arm]
        if not of_arm:
            continue
        seeds = sorted({row["seed"] for row in of_arm})
        means = [mean([r["accuracy"] for r in of_arm if r["seed"] == seed]) for seed in seeds]
        folds = by_fold(of_arm, itemgetter("accuracy"))
        accuracy = f"{100 * mean(means):.1f} ± {100 * deviation(means):.1f}"
        print_row(arm, len(seeds), len(folds), accuracy, f"{deviation(folds):.1f}")
    print()
    print_row("difference, points", "accuracy")
    print_row(*["---"] * 2)
    for arm, other in PAIRS:
        paired = [r for r in rows if r["arm"] == arm and (other, r["seed"], r["fold"]) in of]
        less = by_fold(paired, lambda r, x=other: r["accuracy"] - of[x, r["seed"], r["fold"]])
        if less:
            print_row(f"{arm}, less {other}", interval(less))
    if of_maps := [row for row in rows if key(BASE, NAMES[1]) in row]:
        print_shares(of_maps)


def print_shares(rows: Rows) -> None:
    """Those of the maps, in percent, and how much more they are than that of the bonds."""
    headings = [f"{name}, {x}" for name in NAMES.values() for x in ("%", "points more")]
    print()
    print_row("on nitro groups", *headings)
    print_row(*["---"] * (1 + len(headings)))
    for title in [*METHODS.values(), BASE]:
        cells = []
        for name in NAMES.values():
            share, base = (key(x, name) for x in (title, BASE))
            cells.append(f"{mean(by_fold(rows, itemgetter(share))):.1f}")
            more = by_fold(rows, lambda row, x=share, y=base: row[x] - row[y])
            cells.append("" if title == BASE else interval(more))
        print_row(title, *cells)


def by_fold(rows: Rows, value: Callable[[Row], float]) -> list[float]:
    """Of each fold the mean over its seeds, times 100."""
    found: dict[int, list[float]] = {}
    for row in rows:
        found.setdefault(row["fold"], []).append(100 * value(row))
    # NaN: no map of the fold had positive relevance.
    return [float(np.nanmean(x)) for x in found.values() if not np.isnan(x).all()]


def measure(arms: list[str], seeds: list[int], folds: list[int], output: Path, given: list[str]):
    """Train what is not measured yet, print the table and keep the picture."""
    kept = KeptRows(output / "rows.jsonl", given)
    write_folds(output)

    def of_run(key: Row) -> Row:
        arm, seed, fold = key.values()
        if arm == BONDS:
            return by_bonds(fold, output)
        ended = trained(arm, seed, fold, output, *given)
        return figures(arm, ended, output / folder_name(arm, seed, fold))

    wanted = [
        {"arm": arm, "seed": seed, "fold": fold} for seed in seeds for fold in folds for arm in arms
    ]
    print_tables(kept.of(wanted, of_run, "arms and folds"))
    drawn = output / folder_name("ESA", seeds[0], folds[0]) / "molecules.png"
    if drawn.is_file():
        (output / "molecules.png").write_bytes(drawn.read_bytes())


def main() -> None:
    parser = Parser("python -m benchmarks.mutag", __doc__)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(FOLDS)))
    parser.add_argument("--output", type=Path, default=Path("runs/mutag"))
    parser.add_argument("--options", nargs="*", default=[], help="more of the config, key=value")
    chosen = parser.parse_args()
    CLASSIFIERS.register("gine")(GINEClassifier)
    measure(chosen.arms, chosen.seeds, chosen.folds, chosen.output, chosen.options)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main()
