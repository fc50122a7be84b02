"""What the selection of parts and the contrastive loss of TransFG bring on scenes of digits.

python -m benchmarks.parts                         (configs/vit_digits.yaml, three arms and seeds)
python -m benchmarks.parts --seeds 0 1 2 3 4 --output FOLDER

Of the test scenes: accuracy; the share of patches with ink of the real digit, among all (the base
rate) and among those that are selected; and how many different parts there are. Of the maps of
transformer_attribution: specificity on pairs, and mIoU on test scenes. Validation accuracy has
chosen the epoch. A selection is found for each arm: without `parts` it is the one that the same
rule would have made. Every row is kept in OUTPUT/rows.jsonl as soon as it is measured, and a second
call goes on there.
"""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

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
from lightning_modules.models.parts import PartBlocks, select_in_last_block

ARMS = {
    "plain": [],
    "parts": ["model.parts=true"],
    "parts + contrastive": ["model.parts=true", "model.contrastive=1"],
}
PAIRS = (("parts", "plain"), ("parts + contrastive", "plain"))
FIGURES = ("accuracy", "selected on the digit", "specificity", "mIoU")
METHOD = "transformer_attribution"
PICTURE = "pairs.png"  # in the folder of each run


def figures(ended: Ended, folder: Path) -> dict[str, float]:
    """What a row has."""
    draw(ended, folder / PICTURE, METHOD)
    return (
        accuracies(ended)
        | of_selection(ended)
        | {
            "specificity": scored(ended, "specificity", METHOD, "class_specificity"),
            "mIoU": scored(ended, "segmentation", METHOD, "mIoU"),
        }
    )


@torch.no_grad()
def of_selection(ended: Ended) -> dict[str, float]:
    """What is selected of the test scenes."""
    module, data = ended.model.eval(), ended.data
    selecting = with_parts(module.backbone)
    found: dict[str, list[Tensor]] = {}
    for batch in DataLoader(data.test_dataset, 200):
        selecting(module.inputs(batch))
        selected = selecting.blocks.selected
        inked = patches_with(batch["mask"], selecting.patch_embed)
        of_batch = {
            "base rate": inked.mean(dim=1),
            "selected on the digit": inked.gather(1, selected).mean(dim=1),
            "different parts": torch.tensor([len(row.unique()) for row in selected]),
        }
        for name, values in of_batch.items():
            found.setdefault(name, []).append(values.float())
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


def with_parts(backbone: nn.Module) -> nn.Module:
    """The model, or a copy of it that selects parts."""
    if isinstance(backbone.blocks, PartBlocks):
        return backbone
    selecting = copy.deepcopy(backbone)
    select_in_last_block(selecting)
    return selecting


def patches_with(masks: Tensor, embed: nn.Module) -> Tensor:
    """1 of each patch that holds some of a mask, 0 of the others: [B, H, W] -> [B, P]."""
    found = F.unfold(masks[:, None].float(), embed.patch_size, stride=embed.proj.stride)
    return found.amax(dim=1)


def main() -> None:
    chosen = parsed("python -m benchmarks.parts", __doc__, ARMS, "runs/parts")
    rows = measured(chosen, ARMS, figures)
    print_table(rows)
    print_differences(rows, PAIRS, FIGURES)
    folders = [folder_of(chosen.output, arm, chosen.seeds[0]) for arm in chosen.arms]
    join([folder / PICTURE for folder in folders], chosen.output / "parts.png")


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    main()
