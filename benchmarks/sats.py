"""What is forgotten when digits are learnt in two steps, and what a teacher keeps of it.

python -m benchmarks.sats                       (every arm and weight, three seeds)
python -m benchmarks.sats --arms logits both --seeds 0 1 --output FOLDER

Per seed a model learns the digits 0 to 4; then, from it, one for each arm and weight learns 5 to 9
(configs/vit_sats.yaml), all over the same samples in the same order. Figures are those of the last
epoch, on the test split. The weight of an arm that is compared is the one with the highest mean of
old and new on the validation split, over the seeds: so the baseline has the best of its weights,
too. Every row is kept in OUTPUT/rows.jsonl as soon as it is measured, and a second call goes on
there.
"""

from __future__ import annotations

import logging
import statistics
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.arms_report import deviation, interval, spread
from benchmarks.by_seed import parsed, print_row
from benchmarks.kept_rows import KeptRows, Row, Rows, folder_name
from configs.schema import load_config
from lightning_modules.experiment import Ended, experiment
from lightning_modules.metrics import ClassIncremental
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.models.classifier import Classifier
from lightning_modules.models.teacher import Teacher

CONFIGS = Path(__file__).parents[1] / "configs"
SIZES = ["data.val_size=1000", "data.test_size=2000", "data.pairs_size=2"]
FIRST = ["data.classes=[0,1,2,3,4]", "trainer.max_epochs=6"]
FIGURES = ("old", "new", "mean", "forgetting", "old among old", "val mean")
COMPARED = ("old", "new", "mean")
BASELINE = "logits"  # what the others are compared with, seed by seed


@dataclass(frozen=True)
class Arm:
    """Options of ``distill``, the one that is the weight, and the weights that are tried."""

    options: dict[str, Any]
    weight: str
    weights: tuple[float, ...]


MASK, LAST = {"region": "mask"}, {"region": "mask", "blocks": "last"}
ALONE, BESIDE = (5.0, 20.0, 80.0), (5.0, 20.0)
ARMS = {
    "fine-tuning": None,
    "logits": Arm({"attention": 0.0}, "logits", (0.3, 1.0, 2.0, 3.0, 5.0)),
    "attention": Arm({"logits": 0.0} | MASK, "attention", ALONE),
    "attention, last block": Arm({"logits": 0.0} | LAST, "attention", ALONE),
    "both": Arm({"logits": 1.0} | MASK, "attention", BESIDE),
    "both, last block": Arm({"logits": 1.0} | LAST, "attention", BESIDE),
    "both, all tokens": Arm({"logits": 1.0, "region": "global"}, "attention", (20.0,)),
    "both, logits 2": Arm({"logits": 2.0} | MASK, "attention", BESIDE),
    "both, logits 2, last block": Arm({"logits": 2.0} | LAST, "attention", BESIDE),
}


def trained(config: str, seed: int, folder: Path, *options: str) -> Ended:
    """A run that is not tested unless an option says so."""
    given = [f"run_dir={folder}", f"seed={seed}", "tracker=null", "loggers={}"]
    given += [*SIZES, "trainer.limit_test_batches=0", *options]
    return experiment(load_config(CONFIGS / config, given), None)


def second_step(
    arm: Arm | None, weight: float, seed: int, base: Path, folder: Path, given: list[str]
) -> dict[str, float]:
    """Learn the other digits as an arm says; the figures of what comes of it."""
    options = [f"model.previous={base}", *given]
    if arm is None:
        options.append("distill=null")
    else:
        chosen = arm.options | {arm.weight: weight}
        options += [f"distill.{name}={value}" for name, value in chosen.items()]
    return figures(trained("vit_sats.yaml", seed, folder, *options), folder)


def figures(ended: Ended, folder: Path) -> dict[str, float]:
    """What the model of the last epoch knows of the test split, and of validation."""
    module = load_classifier(folder / "checkpoints" / "last.ckpt")
    teacher = ended.model.teacher.on(module)
    found = of_split(module, teacher, ended.data.test_dataset)
    return found | {"val mean": of_split(module, teacher, ended.data.val_dataset)["mean"]}


@torch.no_grad()
def of_split(module: Classifier, teacher: Teacher, dataset: Dataset) -> dict[str, float]:
    """Accuracies on old and new classes, their mean, and what is forgotten."""
    old = len(teacher.class_names)
    metric, among_old, of_old = ClassIncremental(old), 0, 0
    for batch in DataLoader(dataset, 200):
        logits, labels = module(batch), batch["label"]
        metric.update(logits.argmax(1), teacher.logits(batch).argmax(1), labels)
        is_old = labels < old
        among_old += int((logits[is_old, :old].argmax(1) == labels[is_old]).sum())
        of_old += int(is_old.sum())
    found = {name: float(value) for name, value in metric.compute().items()}
    accuracies = found["accuracy_old"], found["accuracy_new"]
    values = *accuracies, statistics.mean(accuracies), found["forgetting"], among_old / of_old
    return dict(zip(FIGURES, values, strict=False))


# --------------------------------------------------------------------------------------- report


def points(rows: Rows) -> dict[tuple[str, float], Rows]:
    """The rows of each arm and weight, by seed."""
    found: dict[tuple[str, float], Rows] = {}
    for row in sorted(rows, key=lambda row: (list(ARMS).index(row["arm"]), row["weight"])):
        found.setdefault((row["arm"], row["weight"]), []).append(row)
    return found


def chosen(rows: Rows) -> dict[str, Rows]:
    """The rows of each arm's weight that has the highest mean on validation."""
    best: dict[str, Rows] = {}
    for (arm, _), of_point in points(rows).items():
        if arm not in best or val_mean(of_point) > val_mean(best[arm]):
            best[arm] = of_point
    return best


def val_mean(rows: Rows) -> float:
    return statistics.mean(row["val mean"] for row in rows)


def print_tables(rows: Rows) -> None:
    """Every weight; and of each arm's chosen one, less that of logits, paired by seed, in points.

    Means and standard deviations over the seeds.
    """
    best = chosen(rows)
    print_row("arm", "weight", "seeds", *FIGURES)
    print_row(*["---"] * (3 + len(FIGURES)))
    for (arm, weight), of_point in points(rows).items():
        shown = f"{weight:g}" * bool(weight) + " (chosen)" * (weight > 0 and of_point == best[arm])
        cells = [spread([row[name] for row in of_point]) for name in FIGURES]
        print_row(arm, shown, len(of_point), *cells)
    print()
    print_row(f"less {BASELINE}, points", "weight", *COMPARED, "mean by seed")
    print_row(*["---"] * (3 + len(COMPARED)))
    base = {row["seed"]: row for row in best.pop(BASELINE, [])}
    for arm, of_arm in best.items():
        shared = [row for row in of_arm if row["seed"] in base]
        less = {x: [100 * (row[x] - base[row["seed"]][x]) for row in shared] for x in COMPARED}
        by_seed = ", ".join(f"{x:+.1f}" for x in less["mean"])
        print_row(arm, f"{of_arm[0]['weight']:g}", *map(interval, less.values()), by_seed)


def draw(rows: Rows, path: Path) -> None:
    """Accuracy on old against new classes, a curve an arm along its weights."""
    figure, axes = plt.subplots(figsize=(6.5, 5), layout="constrained")
    of_points = points(rows)
    for arm in dict.fromkeys(arm for arm, _ in of_points):
        curve = {weight: x for (name, weight), x in of_points.items() if name == arm}
        x, y = ([[100 * r[axis] for r in of] for of in curve.values()] for axis in ("old", "new"))
        at = [[statistics.mean(values) for values in axis] for axis in (x, y)]
        spreads = [[deviation(values) for values in axis] for axis in (x, y)]
        axes.errorbar(
            *at, xerr=spreads[0], yerr=spreads[1], fmt="o-", label=arm, alpha=0.8, capsize=2
        )
        for weight, *place in zip(curve, *at, strict=True):
            if weight:
                offset = {"xytext": (4, 4), "textcoords": "offset points"}
                axes.annotate(f"{weight:g}", place, fontsize=8, **offset)
    axes.set_xlabel("accuracy on the old classes, %")
    axes.set_ylabel("accuracy on the new classes, %")
    axes.set_title("Digits 5 to 9 after 0 to 4, by the weight of what is kept")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


# ----------------------------------------------------------------------------------------- main


def measure(seeds: list[int], arms: list[str], output: Path, given: list[str]) -> None:
    """Train what is not measured yet, print the table and draw the picture."""

    def of_run(key: Row) -> Row:
        name, weight, seed = key.values()
        base = output / folder_name("base", seed)
        if not (base / "metrics.json").is_file():  # it is tested at its end
            trained("vit_digits.yaml", seed, base, *FIRST, "trainer.limit_test_batches=1", *given)
        folder = output / folder_name(name, weight, seed)
        return second_step(ARMS[name], weight, seed, base, folder, given)

    wanted = [
        {"arm": name, "weight": weight, "seed": seed}
        for seed in seeds
        for name in arms
        for weight in (ARMS[name].weights if ARMS[name] else (0.0,))
    ]
    rows = KeptRows(output / "rows.jsonl", given).of(wanted, of_run, "runs")
    print_tables(rows)
    draw(rows, output / "sats.png")


def main() -> None:
    chosen = parsed("python -m benchmarks.sats", __doc__, ARMS, "runs/sats")
    measure(chosen.seeds, chosen.arms, chosen.output, chosen.options)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main()
