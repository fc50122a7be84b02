"""CrossTransformers against prototypical networks, on digits that were never trained on.

python -m benchmarks.few_shot                      (configs/few_shot_digits.yaml, three seeds)
python -m benchmarks.few_shot --seeds 0 --options trainer.max_epochs=1 --output FOLDER

Both heads have the same trunk, and train on the same episodes in the same order. A row has the mean
accuracy of test episodes of the unseen digits, with half its 95% interval over episodes, and that
of as many episodes of the digits of training, of other handwritten ones. And it has the share that
lies on patches with the digit's ink, in the support of a query's own class: of the support's map
rho, of the attention of all patches of the query alike, and of all patches alike. Rows are kept in
OUTPUT/rows.jsonl as soon as they are measured, and a second call goes on there. The picture has
queries of the first seed, with what they were compared with.
"""

from __future__ import annotations

import logging
import statistics
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks.arms_report import interval
from benchmarks.by_seed import (
    folder_of,
    measured,
    parsed,
    print_differences,
    print_row,
    print_table,
)
from benchmarks.kept_rows import Rows
from configs.schema import load_config
from lightning_modules.data import DigitEpisodesDataModule
from lightning_modules.data.images.episodes import Episodes, collate_episodes
from lightning_modules.experiment import Ended
from lightning_modules.metrics import EpisodeAccuracy
from lightning_modules.models import FewShotClassifier
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.tasks import captions_of
from relprop.guidance import share_of

CONFIG = Path(__file__).parents[1] / "configs" / "few_shot_digits.yaml"
ARMS = {"prototype": ["model.head=prototype"], "cross": ["model.head=cross"]}
HALF = "interval, half"
SHARES = ["on ink, rho", "on ink, attention", "on ink, uniform"]
MAPS = 40  # test episodes whose support is looked at, a query of each class


def figures(ended: Ended, folder: Path) -> dict[str, float]:
    """What a row has."""
    module, data = ended.model.eval(), ended.data
    unseen = data.test_dataset
    episodes = {"way": data.way, "shot": data.shot, "queries": data.queries, "seed": data.seed}
    names = data.train_dataset.pool.class_names
    seen = DigitEpisodesDataModule(test_classes=names, test_episodes=len(unseen), **episodes)
    found = {
        "unseen": ended.tested["test/episode_accuracy"],
        HALF: ended.tested["test/episode_accuracy_ci95"],
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


def print_tables(rows: Rows) -> None:
    """Means over the seeds; differences of heads, and of shares, paired by seed, in points.

    Of each seed the accuracy on unseen digits stands with its interval over episodes.
    """
    print_table([{name: row[name] for name in row if name != HALF} for row in rows])
    print()
    seeds = sorted({row["seed"] for row in rows})
    print_row("unseen, 95% interval over episodes", *(f"seed {seed}" for seed in seeds))
    print_row(*["---"] * (1 + len(seeds)))
    for arm in dict.fromkeys(row["arm"] for row in rows):
        of = {
            row["seed"]: f"{row['unseen']:.3f} ± {row[HALF]:.3f}"
            for row in rows
            if row["arm"] == arm
        }
        print_row(arm, *(of.get(seed, "") for seed in seeds))
    print_differences(rows, [("cross", "prototype")], ("unseen", "seen"))
    of_cross = [row for row in rows if row["arm"] == "cross"]
    print()
    print_row(f"{SHARES[0]}, of cross, points", *(f"less {x}" for x in SHARES[1:]))
    print_row(*["---"] * len(SHARES))
    less = [[100 * (row[SHARES[0]] - row[other]) for row in of_cross] for other in SHARES[1:]]
    print_row("", *map(interval, less))


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


def main() -> None:
    chosen = parsed("python -m benchmarks.few_shot", __doc__, ARMS, "runs/few_shot")
    print_tables(measured(chosen, ARMS, figures, CONFIG))
    if "cross" in chosen.arms:
        run = folder_of(chosen.output, "cross", chosen.seeds[0])
        data = load_config(run / "config.yaml", []).data
        episodes = DigitEpisodesDataModule(**{x: data[x] for x in data if x != "kind"})
        module = load_classifier(run / "checkpoints" / "best.ckpt")
        draw(module, episodes.test_dataset, chosen.output / "few_shot.png")


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main()
