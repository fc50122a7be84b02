"""What training on explanations brings where a marker goes with the label.

python -m benchmarks.arms digits                    (configs/vit_marker.yaml, every arm, five seeds)
python -m benchmarks.arms reviews --output FOLDER   (configs/bert_marker.yaml)
python -m benchmarks.arms photographs --arms plain default shuffled --seeds 0 1 2 --times 1 \
    --options data.root=FOLDER model.weights=FILE model.name=vit_small_patch14_dinov2 \
    'model.model_options={img_size: 112}' data.image_size=112 data.batch_size=16 \
    'data.marker={share: 1.0, agreement: 0.95, size: 28}' trainer.max_epochs=3 model.lr=3e-4

Per seed a model is trained plainly; then, from its weights, one for each arm and weight, all over
the same samples in the same order. Two seeds choose the weight of each arm, by the highest mean
val/object_only: validation has no shift in it. The others have that weight alone, and so has the
control of an arm. Every row is kept in OUTPUT/KIND.jsonl as soon as it is measured, and a second
call goes on there.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from benchmarks.arms_report import chosen_weight, draw, print_table
from benchmarks.kept_rows import KeptRows, Row, Rows, folder_name
from configs.schema import load_config
from lightning_modules.callbacks import MetricsTable
from lightning_modules.experiment import Ended, experiment
from lightning_modules.utils.cli import Parser
from relprop.guidance import share_of

CONFIGS = Path(__file__).parents[1] / "configs"
MAPS = 150  # samples whose maps are looked at
METHODS = ("generic_attention", "transformer_attribution")
WEIGHTS = (0.3, 1.0, 3.0)
CHOOSING = 2  # seeds that choose the weights
KEY = ("arm", "weight", "seed")


@dataclass(frozen=True)
class Arm:
    """A way to train on explanations: options of ``guidance`` and the unit of its weights."""

    options: dict[str, Any]
    unit: float = 1.0
    control_of: str | None = None  # the arm whose chosen weight it has


ARMS = {
    "plain": None,
    "default": Arm({}),
    "exact": Arm({"differentiable": "exact"}),
    "robustvit": Arm({"loss": "robustvit"}, unit=4.0),  # 0.8 / 0.2, as published
    "raw_attention": Arm({"method": "raw_attention"}),
    "rollout": Arm({"method": "rollout"}),
    # From about as large as the cross-entropy, as its authors advise, on.
    "input_gradient": Arm({"method": "input_gradient"}, unit=0.01),
    "shuffled": Arm({"masks": "shuffled"}, control_of="default"),
    "exact, shuffled": Arm({"differentiable": "exact", "masks": "shuffled"}, control_of="exact"),
}
SIZES = ["data.val_size=500", "data.test_size=600"]
KINDS = {  # config; its options; those of the second stage
    "digits": ("vit_marker.yaml", SIZES, ["model.lr=5e-4", "data.train_size=3840"]),
    "reviews": ("bert_marker.yaml", SIZES, []),
    "photographs": (
        "deit_image_folder.yaml",
        [
            "model.pretrained=false",
            "model.mixup=0",
            "model.cutmix=0",
            "model.label_smoothing=0",
            "data.transforms_of=null",
            "data.auto_augment=null",
            "data.random_erasing=0",
            "data.scale=[0.7,1.0]",
            "data.num_workers=0",
            "trainer.precision=32-true",
        ],
        ["model.lr=1e-4"],
    ),
}


def trained(kind: str, seed: int, folder: Path, *options: str) -> Ended:
    """A run, tested."""
    config, of_kind, _ = KINDS[kind]
    given = [f"run_dir={folder}", f"seed={seed}", "tracker=null", "loggers={}"]
    given += [*of_kind, *options]
    return experiment(load_config(CONFIGS / config, given), None)


def second_stage(
    kind: str, seed: int, base: Path, folder: Path, arm: Arm | None, weight: float, given: list[str]
) -> Ended:
    """A model trained on from ``base`` as an arm says."""
    options = [*given, *KINDS[kind][2], f"model.weights={base}", "trainer.max_epochs=1"]
    if kind == "reviews":
        options.append(f"data.tokenizer={base}")
    if arm is not None:
        options += [f"guidance.{name}={value}" for name, value in arm.options.items()]
        options.append(f"guidance.weight={weight}")
    return trained(kind, seed, folder, *options)


# ------------------------------------------------------------------------------------ figures


def figures(ended: Ended) -> dict[str, float]:
    """What a row has: accuracies, causal figures, and where maps lie."""
    tested = ended.tested
    found = {
        "id": tested["test/accuracy"],
        "shift": tested["test/shift/accuracy"],
        "none": tested["test/none/accuracy"],
        "changed by marker": changed(ended),
    }
    for name in ("background_effect", "background_control", "object_only"):
        found[name] = tested[f"test/{name}"]
    found |= {f"on object, {method}": on_object(ended, method) for method in METHODS}
    (table,) = (x for x in ended.trainer.callbacks if isinstance(x, MetricsTable))
    return found | {name: table.rows[-1][name] for name in ("val/accuracy", "val/object_only")}


def batches(ended: Ended, dataset: Dataset, size: int = 100) -> Iterable[dict[str, Any]]:
    return DataLoader(dataset, size, collate_fn=ended.data.collate or default_collate)


def changed(ended: Ended) -> float:
    """The share of test samples whose predictions in shift and in none differ."""
    module, sets = ended.model.eval(), ended.data.test_sets
    with torch.no_grad():
        predicted = [
            torch.cat([module(batch).argmax(dim=1) for batch in batches(ended, sets[name])])
            for name in ("shift", "none")
        ]
    return float((predicted[0] != predicted[1]).float().mean())


def on_object(ended: Ended, method: str) -> float:
    """The mean share of positive relevance for the true class that is on the object, in shift."""
    module, found = ended.model.eval(), []
    dataset = ended.data.test_sets["shift"]
    ((name, modality),) = module.sources.items()
    for batch in batches(ended, Subset(dataset, range(min(MAPS, len(dataset)))), 50):
        marks, known = modality.marks(batch, batch["label"])
        explained = module.explain_trace(module.record(batch), batch, batch["label"], method)
        pairs = modality.beside(explained, marks, False)
        shares = [share_of(S.flatten(1).relu(), m.flatten(1)) for S, m in pairs]
        found.append(torch.cat(shares)[known])
    return float(torch.cat(found).mean())


# ---------------------------------------------------------------------------------------- main


def measure(
    kind: str,
    seeds: list[int],
    arms: list[str],
    weights: list[float],
    output: Path,
    given: list[str],
) -> None:
    """Train what is not measured yet, and print the table."""
    kept = KeptRows(output / f"{kind}.jsonl", given)

    def of_run(key: Row) -> Row:
        name, weight, seed = key.values()
        base = output / f"{kind}-base-{seed}"
        if name == "base":
            return figures(trained(kind, seed, base, *given))
        folder = output / folder_name(kind, name, weight, seed)
        return figures(second_stage(kind, seed, base, folder, ARMS[name], weight, given))

    def add(wanted: list[tuple[str, float, int]], what: str) -> Rows:
        return kept.of([dict(zip(KEY, x, strict=True)) for x in wanted], of_run, what)

    choosing = seeds[:CHOOSING]
    of_base = add([("base", 0.0, seed) for seed in seeds], f"{kind}, plainly")
    tried = {name: ARMS[name] for name in arms if ARMS[name] and not ARMS[name].control_of}
    for seed in choosing:
        add([(x, arm.unit * w, seed) for x, arm in tried.items() for w in weights], "weights")
    chosen = {"plain": 0.0} | {name: chosen_weight(kept.rows, name, choosing) for name in tried}
    chosen |= {name: chosen[ARMS[name].control_of] for name in arms if name not in chosen}
    rows = of_base
    for seed in seeds:
        rows = rows + add([(name, chosen[name], seed) for name in arms], "chosen weights")
    print_table(rows)
    draw(rows, output / f"{kind}.png")


def main() -> None:
    parser = Parser("python -m benchmarks.arms", __doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--times", nargs="+", type=float, default=list(WEIGHTS))
    parser.add_argument("--output", type=Path, default=Path("runs/arms"))
    parser.add_argument("--options", nargs="*", default=[], help="more of the config, key=value")
    chosen = parser.parse_args()
    for name in chosen.arms:
        arm = ARMS[name]
        if arm and arm.control_of not in (None, *chosen.arms):
            parser.error(f"--arms {name} is a control; accepted: {arm.control_of} beside it")
    measure(chosen.kind, chosen.seeds, chosen.arms, chosen.times, chosen.output, chosen.options)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main()
