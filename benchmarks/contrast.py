"""Why this class rather than that: where maps of mosaics lie with and without ``against``.

python -m benchmarks.contrast [--mosaics 60]

Mosaics are of four photographs of CIFAR-10 (``protocols.grid``), for the ViT-S that tells their
classes. Each class is explained alone, and against that of the cell after it. The table has the
share of positive relevance in its own cell and in the other's, with 95% intervals over mosaics;
those of differences are paired.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import relprop
from benchmarks.arms_report import interval
from benchmarks.measure import progress
from benchmarks.precision import PHOTOS, WEIGHTS, photographs, trained
from lightning_modules.metrics import EnergyInside
from lightning_modules.protocols.grid import CELLS, chosen, mosaic
from lightning_modules.utils.cli import Parser

METHODS = (
    *("transformer_attribution", "generic_attention", "attnlrp_attention", "gradcam"),
    *("attnlrp", "cp_lrp", "rollout"),
)
ROW = "| {:25} | {:23} | {:23} | {:23} | {:23} | {:19} |"


def mosaics(model: nn.Module, count: int) -> tuple[Tensor, Tensor]:
    """Mosaics [M, 3, H, W], and the classes of their cells, [M, 4]."""
    pictures, labels = photographs(), [path.parent.name for path in sorted(PHOTOS.glob("*/*"))[::5]]
    classes = [sorted(set(labels)).index(label) for label in labels]
    with torch.no_grad():
        p = torch.cat([model(part) for part in pictures.split(20)]).softmax(dim=1)
    right = {i: p[i, c].item() for i, c in enumerate(classes) if p[i].argmax() == c}
    cells = chosen(right, classes, count)
    found = [mosaic([pictures[i] for i in four], "own") for four in cells]
    return torch.stack(found), torch.tensor([[classes[i] for i in four] for four in cells])


def of_cells(model: nn.Module, x: Tensor, classes: Tensor, method: str, contrast: bool) -> Tensor:
    """Shares of positive relevance in the cell of each class, and in the one after it, in percent.

    [M, 2], the means of the four classes of each mosaic.
    """
    shares = EnergyInside(), EnergyInside()
    for own in range(CELLS):
        other = (own + 1) % CELLS
        target, against = classes[:, own], classes[:, other] if contrast else None
        found = relprop.explain(model, x, target, method, against=against)
        maps = found.relevance.unflatten(1, found.grid)
        for metric, cell in zip(shares, (own, other), strict=True):
            metric.update(maps, region(cell, found.grid).expand_as(maps))
    each = [metric.in_order().view(CELLS, -1).mean(dim=0) for metric in shares]
    return 100 * torch.stack(each, dim=1)


def region(cell: int, grid: tuple[int, int]) -> Tensor:
    """The patches of a cell, bool [rows, columns]."""
    cells = torch.arange(CELLS).view(2, 2)
    return cells.repeat_interleave(grid[0] // 2, 0).repeat_interleave(grid[1] // 2, 1) == cell


def main() -> None:
    parser = Parser("python -m benchmarks.contrast", __doc__)
    parser.add_argument("--mosaics", type=int, default=60)
    count = parser.parse_args().mosaics
    if not (PHOTOS.is_dir() and WEIGHTS.is_file()):
        raise SystemExit(f"not measured: it takes {PHOTOS} and {WEIGHTS}")
    model = trained()
    x, classes = mosaics(model, count)
    print(
        ROW.format("method", "own cell", "other's cell", "own, against", "other's, against", "gain")
    )
    print(ROW.format(*["---"] * 6))
    for method in progress(METHODS, f"{len(x)} mosaics"):
        alone, against = (of_cells(model, x, classes, method, c) for c in (False, True))
        gain = (against[:, 0] - against[:, 1]) - (alone[:, 0] - alone[:, 1])
        figures = (*alone.T, *against.T, gain)
        print(ROW.format(f"`{method}`", *(interval(v.tolist()) for v in figures)), flush=True)


if __name__ == "__main__":
    main()
