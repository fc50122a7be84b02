"""Grid: in a mosaic of four pictures, is the map of a class on the picture of that class?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import relprop
from lightning_modules.data import DataModule
from lightning_modules.metrics import EnergyInside, SampledMetric
from lightning_modules.models.classifier import Classifier
from lightning_modules.protocols.base import PROTOCOLS, Column, Protocol
from lightning_modules.protocols.explainer import Explainer
from lightning_modules.tasks import precise
from lightning_modules.utils.errors import as_input_error

CELLS = 4  # of a mosaic, 2 x 2
MOSAICS = 500  # at most
PICTURES = 8  # test pictures for each mosaic: half of them may be chosen, each once


@PROTOCOLS.register("grid")
class Grid(Protocol):
    """The grid pointing game (Böhle et al. 2021): no masks are needed.

    A mosaic is of four test pictures of different classes, which the model recognises surely
    (:func:`chosen`). Each of the four classes is explained; the score is the share of its positive
    relevance in its own cell: 0.25 of a map that is blind to the class, at most 1.

    Args:
        size: of a mosaic: that of a picture (``own``), for which each is shrunk to a half, or
            ``double``, which some models do not take.
    """

    modality = "image"
    title = "grid pointing game: share of relevance in the cell of the class explained"
    columns = [Column("energy in own cell", "energy", better="higher")]

    def __init__(
        self, module: Classifier, data: DataModule, size: Literal["own", "double"] = "own"
    ) -> None:
        super().__init__(module, data)
        self.size = size

    def samples(self) -> Dataset:
        self.mosaics = Mosaics(self.data.test_dataset, self.source, self.size)
        return self.mosaics

    @torch.no_grad()
    def prepare(self) -> None:
        """Choose the pictures of the mosaics, by what the model says of all test pictures."""
        labels, found, p = [], [], []
        for batch in DataLoader(
            self.mosaics.pictures, self.data.batch_size, collate_fn=self.data.collate
        ):
            batch = self.module.transfer_batch_to_device(batch, self.module.device, 0)
            highest = precise(self.module(batch)).softmax(dim=1).max(dim=1)
            labels += batch["label"].tolist()
            found += highest.indices.tolist()
            p += highest.values.tolist()
        right = {i: p[i] for i, label in enumerate(labels) if found[i] == label}
        self.mosaics.cells = chosen(right, labels, len(self.mosaics))
        if self.size == "double":
            mosaic = self.mosaics[0][self.source][None].to(self.module.device)
            with as_input_error("protocol.size double", "a model of pictures of any size, or own"):
                self.module({self.source: mosaic})

    def metrics(self, **options) -> dict[str, SampledMetric]:
        return {"": EnergyInside(**options)}

    def update(self, metrics: Mapping[str, SampledMetric], explain: Explainer) -> None:
        if not self.mosaics.cells:
            raise relprop.UnsupportedModel(
                f"a mosaic is of {CELLS} classes, and the model recognises test pictures of fewer"
            )
        size = explain.batch[self.source].shape[-2:]
        heatmaps = [explain(labels).heatmap(size) for labels in explain.batch["labels"].T]
        regions = torch.zeros(CELLS, *size, dtype=torch.bool, device=heatmaps[0].device)
        halves = [(slice(None, n // 2), slice(n // 2, None)) for n in size]
        for cell, region in enumerate(regions):
            rows, columns = divmod(cell, 2)
            region[halves[0][rows], halves[1][columns]] = True
        of_mosaic = torch.stack(heatmaps, dim=1).flatten(0, 1)
        count = len(heatmaps[0])
        metrics[""].update(of_mosaic, regions.repeat(count, 1, 1), maps=CELLS)


class Mosaics(Dataset):
    """Mosaics of four pictures each: ``source`` [3, H, W], ``labels`` [4] of the cells, by rows.

    Attributes:
        pictures: the data set that they are made of.
        cells: which four pictures each is of; empty where there are none, and then any four are.
    """

    def __init__(self, pictures: Dataset, source: str, size: str) -> None:
        self.pictures, self.source, self.size = pictures, source, size
        self.cells: list[Sequence[int]] = []

    def __len__(self) -> int:
        return max(1, min(MOSAICS, len(self.pictures) // PICTURES))

    def __getitem__(self, index: int) -> dict[str, Any]:
        of_any = [i % len(self.pictures) for i in range(CELLS)]
        samples = [self.pictures[i] for i in (self.cells[index] if self.cells else of_any)]
        pictures = [torch.as_tensor(sample[self.source]) for sample in samples]
        labels = torch.tensor([int(sample["label"]) for sample in samples])
        return {self.source: mosaic(pictures, self.size), "labels": labels, "label": labels[0]}


def mosaic(pictures: Sequence[Tensor], size: str) -> Tensor:
    """Four pictures [3, H, W] by rows, as one: of H x W (``own``), or 2H x 2W (``double``)."""
    height, width = pictures[0].shape[-2:]
    rows, columns = ([height, height], [width, width])
    if size == "own":
        rows, columns = ([n // 2, n - n // 2] for n in (height, width))
    cells = [
        F.interpolate(
            picture[None], (rows[i // 2], columns[i % 2]), mode="bilinear", antialias=True
        )[0]
        for i, picture in enumerate(pictures)
    ]
    return torch.cat([torch.cat(cells[i : i + 2], dim=2) for i in (0, 2)], dim=1)


def chosen(right: Mapping[int, float], labels: Sequence[int], count: int) -> list[list[int]]:
    """The pictures of ``count`` mosaics; none where pictures of fewer than four classes are right.

    Of each class the half of the pictures whose probability is the greatest, at least one. A mosaic
    is of the four classes of which the least share has been used, drawn among equal ones; within a
    class each picture comes once before any comes again. The same in every call.

    Args:
        right: the pictures that are classified correctly, each with its probability.
        labels: of all pictures.
        count: of mosaics.
    """
    of_class: dict[int, list[int]] = defaultdict(list)
    for index in sorted(right, key=lambda index: -right[index]):
        of_class[labels[index]].append(index)
    if len(of_class) < CELLS:
        return []
    sure = {label: found[: (len(found) + 1) // 2] for label, found in of_class.items()}
    used, generator, mosaics = dict.fromkeys(sorted(sure), 0), torch.Generator().manual_seed(0), []
    for _ in range(count):
        draws = dict(zip(used, torch.rand(len(used), generator=generator).tolist(), strict=True))
        least = sorted(used, key=lambda x, d=draws: (used[x] / len(sure[x]), d[x]))[:CELLS]
        cells = [least[i] for i in torch.randperm(CELLS, generator=generator)]
        mosaics.append([sure[label][used[label] % len(sure[label])] for label in cells])
        for label in least:
            used[label] += 1
    return mosaics
