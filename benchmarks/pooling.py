"""What it brings to pool patches by a learned query, and where its attention lies.

python -m benchmarks.pooling                       (configs/vit_digits.yaml, four arms, three seeds)
python -m benchmarks.pooling --seeds 0 1 2 3 4 --output FOLDER

Validation accuracy; mIoU of pooling_attention and of raw_attention, by the protocol segmentation,
and their specificity on pairs; that of transformer_attribution; and the mean over validation scenes
of the sum of the map of lrp for the true class, which is 1 less what biases and constant queries
take. A model that does not pool by attention has no pooling_attention. Every row is kept in
OUTPUT/rows.jsonl as soon as it is measured, and a second call goes on there.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from benchmarks.by_seed import draw, folder_of, join, measured, parsed, print_table, scored
from lightning_modules.experiment import Ended

LEARNED = "model.pool_init=1"  # of gamma: four layers learn slowly with the published 1e-4
ARMS = {
    "token": ["model.pool=token"],
    "avg": ["model.pool=avg"],
    "attention": ["model.pool=attention", LEARNED],
    "attention_per_class": ["model.pool=attention_per_class", LEARNED],
}
METHODS = ("pooling_attention", "raw_attention", "transformer_attribution")
PICTURE = "pairs.png"  # in the folder of each run


def figures(ended: Ended, folder: Path) -> dict[str, float]:
    """What a row has."""
    pools = "attention" in ended.model.hparams.pool
    methods = METHODS if pools else METHODS[1:]
    draw(ended, folder / PICTURE, methods[0])
    found = on_validation(ended)
    for protocol, score, called in (
        ("segmentation", "mIoU", "mIoU"),
        ("specificity", "class_specificity", "specificity"),
    ):
        found |= {f"{called}, {x}": scored(ended, protocol, x, score) for x in methods}
    return found


def on_validation(ended: Ended) -> dict[str, float]:
    """Accuracy, and the sum of the map of lrp."""
    module, found = ended.model.eval(), {"accuracy": [], "sum of lrp": []}
    for batch in DataLoader(ended.data.val_dataset, 100):
        trace = module.record(batch)
        explained = module.explain_trace(trace, batch, batch["label"], "lrp")
        found["accuracy"].append((trace.logits.argmax(dim=1) == batch["label"]).float())
        found["sum of lrp"].append(explained.relevance.flatten(1).sum(dim=1))
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


def main() -> None:
    chosen = parsed("python -m benchmarks.pooling", __doc__, ARMS, "runs/pooling")
    rows = measured(chosen, ARMS, figures)
    print_table(rows, "avg", "accuracy")
    folders = [folder_of(chosen.output, arm, chosen.seeds[0]) for arm in chosen.arms]
    join([folder / PICTURE for folder in folders], chosen.output / "pooling.png")


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main()
