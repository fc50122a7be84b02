"""CrossTransformers against prototypical networks, on digits that were never trained on.

python -m benchmarks.few_shot                      (configs/few_shot_digits.yaml, three seeds)
python -m benchmarks.few_shot --seeds 0 --options trainer.max_epochs=1 --output FOLDER

Both heads have the same trunk, and train on the same episodes in the same order. A row has the mean
accuracy of test episodes of the unseen digits, with half its 95% interval, and that of as many
episodes of the digits of training, of other handwritten ones. And it has the share that lies on
patches with the digit's ink, in the support of a query's own class: of the support's map rho, of
the attention of all patches of the query alike, and of all patches alike. Rows are kept in
OUTPUT/few_shot.jsonl as soon as they are measured, and a second call goes on there. The picture has
queries of the first seed, with what they were compared with.
"""

from __future__ import annotations

import json
import logging
import statistics
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks.arms_report import interval, spread
from benchmarks.by_seed import parsed
from benchmarks.measure import progress
from configs.schema import load_config
from lightning_modules.data import DigitEpisodesDataModule
from lightning_modules.data.images.episodes import Episodes, collate_episodes
from lightning_modules.experiment import Ended, experiment
from lightning_modules.metrics import EpisodeAccuracy
from lightning_modules.models import FewShotClassifier
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.tasks import captions_of
from relprop.guidance import share_of

CONFIG = Path(__file__).parents[1] / "configs" / "few_shot_digits.yaml"
ARMS = {"prototype": ["model.head=prototype"], "cross": ["model.head=cross"]}
ACCURACIES = ["unseen", "interval, half", "seen"]
SHARES = ["on ink, rho", "on ink, attention", "on ink, uniform"]
MAPS = 40  # test episodes whose support is looked at, a query of each class


def trained(seed: int, folder: Path, *options: str) -> Ended:
    """A run, tested."""
    given = [f"run_dir={folder}", f"seed={seed}", "tracker=null", "loggers={}", *options]
    return experiment(load_config(CONFIG, given), None)


def figures(ended: Ended) -> dict[str, float]:
    """What a row has."""
    module, data = ended.model.eval(), ended.data
    unseen = data.test_dataset
    episodes = {"way": data.way, "shot": data.shot, "queries": data.queries, "seed": data.seed}
    names = data.train_dataset.pool.class_names
    seen = DigitEpisodesDataModule(test_classes=names, test_episodes=len(unseen), **episodes)
    found = {
        "unseen": ended.tested["test/episode_accuracy"],
        "interval, half": ended.tested["test/episode_accuracy_ci95"],
        "seen": accuracy(module, seen.test_dataset),
    }
    return found | on_ink(module, unseen)


@torch.no_grad()
def accuracy(module: FewShotClassifier, dataset: Episodes) -> float:
    """The mean over episodes."""
    metric = EpisodeAccuracy(module.queries)
    for i in range(len(dataset)):
        batch = collate_episodes([dataset[i]])
        metric.update(module(batch), batch["label"])
    return float(metric.compute())


def on_ink(module: FewShotClassifier, dataset: Episodes) -> dict[str, float]:
    """The shares on patches of the support's digits, in the mean of queries."""
    found: dict[str, list[float]] = {name: [] for name in SHARES}
    for i in range(min(MAPS, len(dataset))):
        batch = collate_episodes([dataset[i]])
        comparisons = module.record(batch).comparisons
        for query in range(dataset.way):  # one of each class
            compared, label = comparisons.of(query), int(batch["label"][query])
            rho = compared.relevance[label]  # [K, N]
            side = int(rho.shape[-1] ** 0.5)
            masks = batch["support_mask"][0, label].float()
            ink = (F.adaptive_max_pool2d(masks, side) > 0).flatten(1).to(rho)
            maps = {"on ink, rho": rho, "on ink, uniform": torch.ones_like(rho)}
            if compared.attention is not None:
                maps["on ink, attention"] = compared.attention[label].mean(dim=0)
            for name, S in maps.items():
                found[name].append(float(share_of(S.flatten()[None], ink.flatten()[None])))
    return {name: statistics.mean(shares) for name, shares in found.items() if shares}


# ------------------------------------------------------------------------------------- report


def print_tables(rows: list[dict]) -> None:
    """Means and standard deviations over the seeds; differences paired by seed, in points."""
    shown = [*ACCURACIES, *SHARES]
    print("|", " | ".join(["head", "seeds", *shown]), "|\n" + "| --- " * (len(shown) + 2) + "|")
    of_arm = {arm: {r["seed"]: r for r in rows if r["arm"] == arm} for arm in ARMS}
    for arm, found in of_arm.items():
        values = [[row[x] for row in found.values() if x in row] for x in shown]
        cells = [spread(x) if x else "" for x in values]
        if found:
            print("|", " | ".join([arm, str(len(found)), *cells]), "|")
    print("\n| difference, points | mean | by seed |\n| --- | --- | --- |")
    cross, prototype = of_arm["cross"], of_arm["prototype"]
    for name in ("unseen", "seen"):
        both = sorted(cross.keys() & prototype.keys())
        show(f"cross, less prototype, {name}", [cross[s][name] - prototype[s][name] for s in both])
    for other in SHARES[1:]:
        less = [row[SHARES[0]] - row[other] for row in cross.values()]
        show(f"cross, {SHARES[0]}, less {other}", less)


def show(name: str, differences: list[float]) -> None:
    if differences:
        points = [100 * x for x in differences]
        by_seed = ", ".join(f"{x:+.1f}" for x in points)
        print(f"| {name} | {interval(points)} | {by_seed} |")


def draw(module: FewShotClassifier, dataset: Episodes, path: Path) -> None:
    """Queries under the map of their class, beside its support."""
    batch = collate_episodes([dataset[0]])
    labels: Tensor = batch["label"]
    trace = module.eval().record(batch)
    names = [dataset.pool.class_names[i] for i in batch["classes"][0].tolist()]
    module.task.class_names = names
    found = [module.explain_trace(trace, batch, labels), module.explain_trace(trace, batch)]
    captions = captions_of(found, ["true: {}", "predicted: {}"], module.task, labels)
    heading = f"Test digits {', '.join(names)}, which were not trained on"
    picture = module.sources["image"].samples_picture(batch, found, captions, heading, False)
    Image.fromarray(np.asarray(picture)).save(path)


def measure(seeds: list[int], arms: list[str], output: Path, given: list[str]) -> None:
    """Train what is not measured yet, print the tables and draw the picture."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / "few_shot.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    if any(row["options"] != given for row in rows):
        raise SystemExit(f"{path} is of other --options; accepted: another --output")
    done = {(row["arm"], row["seed"]) for row in rows}
    wanted = [(arm, seed) for seed in seeds for arm in arms if (arm, seed) not in done]
    for arm, seed in progress(wanted, "heads"):
        ended = trained(seed, output / f"{arm}-{seed}", *ARMS[arm], *given)
        row = {"arm": arm, "seed": seed, "options": given} | figures(ended)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        rows.append(row)
    rows = [row for row in rows if row["seed"] in seeds and row["arm"] in arms]
    print_tables(rows)
    if "cross" in arms:
        run = output / f"cross-{seeds[0]}"
        data = load_config(run / "config.yaml", []).data
        episodes = DigitEpisodesDataModule(**{x: data[x] for x in data if x != "kind"})
        checkpoint = run / "checkpoints" / "best.ckpt"
        draw(load_classifier(checkpoint), episodes.test_dataset, output / "few_shot.png")


def main() -> None:
    chosen = parsed("python -m benchmarks.few_shot", __doc__, ARMS, "runs/few_shot")
    measure(chosen.seeds, chosen.arms, chosen.output, chosen.options)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main()
