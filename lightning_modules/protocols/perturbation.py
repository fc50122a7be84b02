"""Perturbation: does the decision hang on the pixels called relevant (the paper's table 1)?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_modules.metrics import PerturbationAccuracy, SampledMetric, perturb
from lightning_modules.metrics.perturbation import STEPS
from lightning_modules.protocols.base import IN_PAPER, PROTOCOLS, Column, Protocol
from lightning_modules.protocols.explainer import Explainer

IMAGES = 256  # classified at a time

# Percent, ViT-B/16; rollout and raw attention know no class.
TABLE_1 = [
    dict(zip(IN_PAPER, (20.05, 23.99, 34.06, 41.94, 19.64, 17.03), strict=True)),
    dict(zip(IN_PAPER[2:], (33.56, 41.93, 19.64, 16.04), strict=True)),
    dict(zip(IN_PAPER, (53.1, 45.55, 41.52, 43.49, 50.49, 54.16), strict=True)),
    dict(zip(IN_PAPER[2:], (42.02, 43.49, 50.49, 55.04), strict=True)),
]


@PROTOCOLS.register("perturbation")
class Perturbation(Protocol):
    """Accuracy on the test images while 10% to 90% of the pixels are removed, black.

    In order of the relevance for the predicted and for the true class (``target``); the most
    relevant first (``positive``: lower is better) or the least (``negative``: higher is better).
    Of several labels it is the share that the model still finds: of the most probable labels, in
    the order of their relevance, where they are there (``predicted``), and of all labels that are
    there, each in the order of its own (``target``).
    """

    modality = "image"
    tasks = ("multiclass", "multilabel")
    title = "area under accuracy while pixels are removed"
    paper_data = "imagenet"
    columns = [
        Column("positive, predicted", "positive_predicted/auc", paper=TABLE_1[0], better="lower"),
        Column("target", "positive_target/auc", paper=TABLE_1[1], better="lower"),
        Column("negative, predicted", "negative_predicted/auc", paper=TABLE_1[2], better="higher"),
        Column("target", "negative_target/auc", paper=TABLE_1[3], better="higher"),
    ]
    curves = {
        "positive_predicted/accuracy": "accuracy, most relevant removed first",
        "negative_predicted/accuracy": "accuracy, least relevant removed first",
    }
    x_label = "share of pixels removed"

    def samples(self) -> Dataset:
        return self.data.test_dataset

    def metrics(self, **options) -> dict[str, SampledMetric]:
        return {
            f"{order}_{target}": PerturbationAccuracy(**options)
            for order in ("positive", "negative")
            for target in ("predicted", "target")
        }

    def update(self, metrics: Mapping[str, SampledMetric], explain: Explainer) -> None:
        if self.module.task.several:
            self.update_labels(metrics, explain)
            return
        images, labels = explain.batch[self.source], explain.batch["label"]
        predicted = explain(None)
        # Where the model is right, the predicted class is the target.
        mistaken = (predicted.target != labels).nonzero()[:, 0]
        maps = predicted.heatmap(images.shape[-2:])
        of_target = explain(labels).heatmap(images.shape[-2:]) if len(mistaken) else maps
        for order in ("positive", "negative"):
            guesses = self.classify(images, maps, order == "positive")
            metrics[f"{order}_predicted"].update(guesses, labels)
            if len(mistaken):
                guesses[mistaken] = self.classify(
                    images[mistaken], of_target[mistaken], order == "positive"
                )
            metrics[f"{order}_target"].update(guesses, labels)

    def update_labels(self, metrics: Mapping[str, SampledMetric], explain: Explainer) -> None:
        """As :meth:`update`, where several labels may be there."""
        images, labels = explain.batch[self.source], explain.batch["label"]
        highest = explain(None)
        is_there = labels.gather(1, highest.target[:, None])[:, 0] > 0.5
        asked = [("predicted", highest, is_there, torch.ones_like(is_there))]
        for target, there in self.module.task.present(labels):
            if there.any():
                asked.append(("target", explain(target), there, there))
        for order in ("positive", "negative"):
            for name, explained, there, of in asked:
                maps = explained.heatmap(images.shape[-2:])[of]
                logits = self.logits(images[of], maps, order == "positive")
                target = explained.target[of][:, None, None].expand(-1, len(STEPS), 1)
                found = self.module.task.found(logits).gather(2, target)[..., 0]
                right = (found & there[of][:, None]).long()
                metrics[f"{order}_{name}"].update(right, torch.ones_like(right[:, 0]))

    def classify(self, images: Tensor, heatmaps: Tensor, most_relevant: bool) -> Tensor:
        """The class that each image [B, 3, H, W] is given at every step, [B, steps]."""
        return self.logits(images, heatmaps, most_relevant).argmax(dim=-1).clone()

    @torch.no_grad()
    def logits(self, images: Tensor, heatmaps: Tensor, most_relevant: bool) -> Tensor:
        """The logits of each image [B, 3, H, W] at every step, [B, steps, C]."""
        black = self.module.sources[self.source].blank(images)[:, 0, 0]
        removed = [perturb(images, heatmaps, share, most_relevant, black) for share in STEPS]
        parts = torch.cat(removed).split(IMAGES)
        logits = torch.cat([self.module({self.source: part}) for part in parts])
        return logits.unflatten(0, (len(STEPS), -1)).transpose(0, 1)
