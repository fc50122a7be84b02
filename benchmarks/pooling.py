"""What it brings to pool patches by a learned query, and where its attention lies.

python -m benchmarks.pooling                       (configs/vit_digits.yaml, four arms, three seeds)
python -m benchmarks.pooling --seeds 0 1 2 3 4 --output FOLDER

Test accuracy, and that of validation, which has chosen the epoch; mIoU of pooling_attention, of
raw_attention (the same map, where a model pools by attention) and of transformer_attribution, by
the protocol segmentation, and their specificity on pairs; and how much of the relevance of lrp for
the true class ends in the query, a constant that no map shows: |q| / (|q| + |x|), with q and x what
query and picture of a validation scene have, each summed over the scenes. Of `token` the query is
the class token. A model that does not pool by attention has no pooling_attention. Every row is kept
in OUTPUT/rows.jsonl as soon as it is measured, and a second call goes on there.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Subset

import relprop
from benchmarks.by_seed import (
    accuracies,
    draw,
    folder_of,
    join,
    measured,
    parsed,
    print_differences,
    print_table,
    scored,
)
from lightning_modules.experiment import Ended

LEARNED = "model.pool_init=1"  # of gamma: four layers learn slowly with the published 1e-4
ARMS = {
    "token": ["model.pool=token"],
    "avg": ["model.pool=avg"],
    "attention": ["model.pool=attention", LEARNED],
    "attention_per_class": ["model.pool=attention_per_class", LEARNED],
}
QUERIES = {
    "token": "cls_token",
    "attention": "attn_pool.query",
    "attention_per_class": "attn_pool.query",
}
METHODS = ("pooling_attention", "raw_attention", "transformer_attribution")
PAIRS = (
    ("attention", "token"),
    ("attention", "avg"),
    ("attention_per_class", "avg"),
    ("attention_per_class", "attention"),
)
FIGURES = (
    "accuracy",
    *(f"{x}, {method}" for x in ("mIoU", "specificity") for method in METHODS[1:]),
)
PICTURE = "pairs.png"  # in the folder of each run


def figures(ended: Ended, folder: Path) -> dict[str, float]:
    """What a row has."""
    pools = "attention" in ended.model.hparams.pool
    methods = METHODS if pools else METHODS[1:]
    draw(ended, folder / PICTURE, methods[0])
    found = accuracies(ended) | {"lrp of the query": of_query(ended)}
    for protocol, score, called in (
        ("segmentation", "mIoU", "mIoU"),
        ("specificity", "class_specificity", "specificity"),
    ):
        found |= {f"{called}, {x}": scored(ended, protocol, x, score) for x in methods}
    return found


def of_query(ended: Ended, scenes: int = 200) -> float:
    """The share of the relevance of lrp that ends in the query; 0 where there is none."""
    module, data = ended.model.eval(), ended.data
    query = QUERIES.get(module.hparams.pool)
    if query is None:
        return 0.0
    sums = torch.zeros(2)
    subset = Subset(data.val_dataset, range(min(scenes, len(data.val_dataset))))
    for batch in DataLoader(subset, 50):
        trace = relprop.record(module.backbone, module.inputs(batch), learned=[query])
        sources = relprop.explain_trace(trace, batch["label"], "lrp").sources
        both = [sources[query], next(x for name, x in sources.items() if name != query)]
        sums += torch.stack([x.relevance.flatten(1).sum(dim=1).abs().sum() for x in both])
    return float(sums[0] / sums.sum())


def main() -> None:
    chosen = parsed("python -m benchmarks.pooling", __doc__, ARMS, "runs/pooling")
    rows = measured(chosen, ARMS, figures)
    print_table(rows)
    print_differences(rows, PAIRS, FIGURES)
    folders = [folder_of(chosen.output, arm, chosen.seeds[0]) for arm in chosen.arms]
    join([folder / PICTURE for folder in folders], chosen.output / "pooling.png")


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main()
