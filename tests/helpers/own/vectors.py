"""A modality of a stranger's own, vectors of numbers, with its data and its model.

And a classifier of two sources: of such a vector beside a little picture.
"""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.data import Dataset

import relprop
from lightning_modules.data import DATAMODULES, DataModule
from lightning_modules.data.texts.files import Line
from lightning_modules.modalities import MODALITIES, Explained, Images, Modality
from lightning_modules.models.classifier import CLASSIFIERS, Classifier

ENTRIES, SIDE, PATCH = 6, 8, 2  # of a vector; pixels of a picture and of a patch
PATCHES = (SIDE // PATCH) ** 2
HEIGHT = 40  # pixels of a drawing
PICTURE_CONFIG = {
    "input_size": [3, SIDE, SIDE],
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bicubic",
    "crop_pct": 1.0,
}


@MODALITIES.register("vector")
class Vectors(Modality):
    """Vectors of numbers from files, drawn as bars."""

    called = "vector"
    endings = (".vec", ".vecs")
    axes = ("entry",)

    def within(self, path):
        lines = path.read_text().splitlines() if path.suffix == ".vecs" else []
        return [Line(path, *line) for line in enumerate(lines, start=1)] or [path]

    def read(self, path):
        return np.loadtxt([path.text] if isinstance(path, Line) else path, dtype=np.float32)

    def batch(self, contents):
        return {self.source: torch.from_numpy(np.stack(contents))}

    def content(self, batch, sample):
        return batch[self.source][sample].cpu().numpy()

    def draw(self, content, relevance, signed):
        picture = np.ones((HEIGHT, 10 * len(content), 3), dtype=np.float32)
        shown = np.zeros(len(content)) if relevance is None else relevance
        most = max(np.abs(shown).max(), 1e-9)
        for i, (value, weight) in enumerate(zip(content, shown, strict=True)):
            length = round((HEIGHT - 1) * min(1, abs(float(value)) / 3)) + 1
            color = (1, 0.4, 0.4) if weight >= 0 else (0.4, 0.4, 1)
            strength = abs(weight) / most
            bar = np.array(color) * strength + 0.6 * (1 - strength)
            picture[-length:, 10 * i : 10 * i + 8] = bar
        return picture


class VectorItems(Dataset):
    """Vectors of noise; one entry of the first half (class 0) or the second (1) stands out."""

    def __init__(self, size: int, seed: int, with_picture: bool) -> None:
        random = np.random.default_rng(seed)
        self.labels = random.integers(2, size=size)
        self.vectors = random.normal(size=(size, ENTRIES)).astype(np.float32) / 4
        for vector, label in zip(self.vectors, self.labels, strict=True):
            vector[random.integers(ENTRIES // 2) + label * ENTRIES // 2] += 2
        pictures = random.normal(size=(size, 3, SIDE, SIDE)).astype(np.float32) / 4
        pictures[self.labels == 1, :, :, SIDE // 2 :] += 1
        self.pictures = pictures if with_picture else None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key):
        index = key[1] if isinstance(key, tuple) else key
        sample = {"vector": self.vectors[index], "label": int(self.labels[index])}
        return sample if self.pictures is None else sample | {"image": self.pictures[index]}


@DATAMODULES.register("vectors")
class VectorsDataModule(DataModule):
    with_picture = False

    def __init__(self, train_size: int = 64, **options) -> None:
        super().__init__(**options)
        self.class_names = ["first half", "second half"]
        self.input_config = {"vector": {"entries": ENTRIES}}
        if self.with_picture:
            self.input_config["image"] = PICTURE_CONFIG
        self.train_dataset, self.val_dataset, self.test_dataset = (
            VectorItems(size, self.seed + i, self.with_picture)
            for i, size in enumerate((train_size, 24, 24))
        )


@DATAMODULES.register("pictured_vectors")
class PicturedVectorsDataModule(VectorsDataModule):
    with_picture = True


class Transformer(nn.Module):
    """Over tokens [B, N, F], behind a class token."""

    def __init__(self, tokens: int, features: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.positions = nn.Parameter(0.1 * torch.randn(1, tokens + 1, width))
        self.cls_token = nn.Parameter(0.1 * torch.randn(1, 1, width))
        self.blocks = nn.Sequential(*(Block(width, num_heads=2) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 2)

    def forward(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        """Logits [B, 2]; ``places`` [B, N] of the tokens, if they are in another order."""
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.embed(x)], dim=1)
        positions = self.positions
        if places is not None:
            positions = torch.cat(
                [positions[:, :1].expand(len(x), -1, -1), positions[0, 1:][places]], 1
            )
        return self.head(self.norm(self.blocks(x + positions))[:, 0])


@CLASSIFIERS.register("vector")
class VectorClassifier(Classifier):
    tokens, features = ENTRIES, 1
    no_sources = {}

    def __init__(
        self, class_names: list[str], input_config: dict, width: int = 16, **options
    ) -> None:
        super().__init__(class_names, input_config, **options)
        self.backbone = Transformer(self.tokens, self.features, width)

    @cached_property
    def sources(self) -> dict[str, Modality]:
        return {"vector": Vectors("vector", self.hparams.input_config["vector"])}

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = batch["vector"][..., None]
        return {"x": x, "places": torch.arange(ENTRIES, device=x.device).expand(len(x), -1)}

    def parameter_groups(self) -> list[dict]:
        lr, decay = self.hparams.lr, self.hparams.weight_decay
        return [{"params": list(self.backbone.parameters()), "lr": lr, "weight_decay": decay}]

    def largest_batch(self):
        return {"vector": torch.zeros(1, ENTRIES), "image": torch.zeros(1, 3, SIDE, SIDE)}

    def backbone_options(self) -> tuple[str, str]:
        return "model.width", f"a model of vectors of {ENTRIES}"

    def without_sources(self) -> dict:
        return {}


@CLASSIFIERS.register("pictured_vector")
class PicturedVectorClassifier(VectorClassifier):
    """The patches of a picture and the entries of a vector, in one row of tokens."""

    tokens, features = PATCHES + ENTRIES, 3 * PATCH**2

    @cached_property
    def sources(self) -> dict[str, Modality]:
        kinds, config = {"image": Images, "vector": Vectors}, self.hparams.input_config
        return {name: kind(name, config[name]) for name, kind in kinds.items()}

    def inputs(self, batch: Mapping[str, Tensor]) -> Tensor:
        patches = nn.functional.unfold(batch["image"], PATCH, stride=PATCH).mT
        entries = nn.functional.pad(batch["vector"][..., None], (0, self.features - 1))
        return torch.cat([patches, entries], dim=1)

    def by_source(self, batch, explanation: relprop.Explanation) -> dict[str, Explained]:
        of_picture, of_vector = explanation.relevance.split([PATCHES, ENTRIES], dim=1)
        about = {"target": explanation.target, "logits": explanation.logits}
        grid = (SIDE // PATCH, SIDE // PATCH)
        picture = relprop.Explanation(of_picture, grid=grid, **about)
        vector = relprop.Explanation(of_vector, grid=None, **about)
        return {
            "image": self.sources["image"].explained(batch, picture),
            "vector": self.sources["vector"].explained(batch, vector),
        }
