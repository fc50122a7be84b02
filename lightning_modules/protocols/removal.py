"""Samples without some of their parts: a picture without pixels, a text without words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import gaussian_blur

from lightning_modules.backgrounds import another
from lightning_modules.metrics import perturb
from lightning_modules.modalities import Explained, Modality
from lightning_modules.modalities.images.explained import ExplainedImages
from lightning_modules.modalities.texts.explained import ExplainedTexts
from lightning_modules.models.classifier import Classifier
from lightning_modules.utils.errors import InputError

IMAGES, TEXTS = 256, 32  # classified at a time
BLUR = 1 / 16  # deviation of the blur, of the longer side


class Removal(ABC):
    """Takes parts out of samples, in the order of their relevance, and puts a ``fill`` there.

    Attributes:
        fills: what it may be; the first is the default.
    """

    fills: ClassVar[tuple[str, ...]]

    def __init__(self, module: Classifier, source: str, fill: str) -> None:
        self.module, self.source, self.fill = module, source, fill

    @property
    def modality(self) -> Modality:
        return self.module.sources[self.source]

    def begin(self, batch: Mapping[str, Any], dataset: Dataset) -> None:
        """Make what is put into the samples of a batch, of the ``dataset``."""
        self.batch = batch

    @abstractmethod
    def logits(
        self, explained: Explained, of: Tensor, most_relevant: bool, shares: Sequence[float]
    ) -> Tensor:
        """The logits of the samples ``of``, bool [B], without each of the ``shares`` of them.

        The ``most_relevant`` parts go first, or the least. [b, shares, C].
        """


class Pixels(Removal):
    """Pixels go, and ``fill`` takes their place.

    ``black``; ``mean``, of the picture itself; ``blur``, of a Gaussian whose deviation is 1/16 of
    the longer side; ``other``, the picture half a data set further on, or the first behind it, of
    eight, with another label.
    """

    fills = ("black", "mean", "blur", "other")

    def begin(self, batch: Mapping[str, Any], dataset: Dataset) -> None:
        super().begin(batch, dataset)
        images = batch[self.source]
        if self.fill == "black":
            filling = self.modality.blank(images).expand_as(images)
        elif self.fill == "mean":
            filling = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
        elif self.fill == "blur":
            sigma = BLUR * max(images.shape[-2:])
            filling = gaussian_blur(images, 2 * round(2 * sigma) + 1, sigma)
        else:
            pairs = zip(batch["index"].tolist(), batch["label"].cpu(), strict=True)
            others = [another(dataset, *pair)[self.source] for pair in pairs]
            filling = torch.stack([torch.as_tensor(x) for x in others]).to(images)
        self.filling = filling

    @torch.no_grad()
    def logits(
        self, explained: ExplainedImages, of: Tensor, most_relevant: bool, shares: Sequence[float]
    ) -> Tensor:
        images = self.batch[self.source]
        maps = explained.heatmap(images.shape[-2:])[of]
        images, filling = images[of], self.filling[of]
        removed = [perturb(images, maps, share, most_relevant, filling) for share in shares]
        parts = torch.cat(removed).split(IMAGES)
        logits = torch.cat([self.module({self.source: part}) for part in parts])
        return logits.unflatten(0, (len(shares), -1)).transpose(0, 1)


class Words(Removal):
    """Words are ``removed``, or ``masked``: the mask token of the model stands in their places."""

    fills = ("removed", "masked")

    def __init__(self, module: Classifier, source: str, fill: str) -> None:
        super().__init__(module, source, fill)
        self.instead = None if fill == "removed" else self.modality.tokenizer.mask_token
        if fill == "masked" and self.instead is None:
            raise InputError(
                "protocol.fill is 'masked', and the tokenizer has no mask token; accepted: removed"
            )

    @torch.no_grad()
    def logits(
        self, explained: ExplainedTexts, of: Tensor, most_relevant: bool, shares: Sequence[float]
    ) -> Tensor:
        texts = []
        for sample in of.nonzero()[:, 0].tolist():
            scores = [score for _, score in explained.words_of(sample)]
            order = sorted(range(len(scores)), key=scores.__getitem__, reverse=most_relevant)
            for share in shares:
                kept = set(order[int(share * len(order)) :])
                texts.append(explained.made_of(sample, kept, self.instead))
        parts = [texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS)]
        logits = torch.cat([self.module(self.module.prepare(part)) for part in parts])
        return logits.unflatten(0, (-1, len(shares)))


REMOVALS: dict[str, type[Removal]] = {"image": Pixels, "text": Words}  # by modality


def removal_of(module: Classifier, source: str, fill: str | None) -> Removal:
    """What takes parts out of a source; ``fill`` None: the default.

    Raises:
        InputError: there is nothing of that kind to put in their place.
    """
    kind = REMOVALS[module.sources[source].called]
    fill = kind.fills[0] if fill is None else fill
    if fill not in kind.fills:
        called = module.sources[source].called
        raise InputError(
            f"protocol.fill is {fill!r}, and the data are {called}s; accepted: "
            f"{', '.join(kind.fills)}"
        )
    return kind(module, source, fill)
