"""Perturbation: does the decision hang on what is called relevant (the paper's table 1)?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_modules.data import DataModule
from lightning_modules.metrics import (
    PerturbationAccuracy,
    PerturbationProbability,
    SampledMetric,
)
from lightning_modules.metrics.perturbation import STEPS
from lightning_modules.modalities import Explained
from lightning_modules.models.classifier import Classifier
from lightning_modules.protocols.base import IN_PAPER, PROTOCOLS, Column, Protocol
from lightning_modules.protocols.explainer import Explainer
from lightning_modules.protocols.removal import removal_of
from lightning_modules.tasks import ACTIVATIONS, precise

ORDERS = ("positive", "negative")

# Percent, ViT-B/16; rollout and raw attention know no class.
TABLE_1 = [
    dict(zip(IN_PAPER, (20.05, 23.99, 34.06, 41.94, 19.64, 17.03), strict=True)),
    dict(zip(IN_PAPER[2:], (33.56, 41.93, 19.64, 16.04), strict=True)),
    dict(zip(IN_PAPER, (53.1, 45.55, 41.52, 43.49, 50.49, 54.16), strict=True)),
    dict(zip(IN_PAPER[2:], (42.02, 43.49, 50.49, 55.04), strict=True)),
]


Fill = Literal["black", "mean", "blur", "other", "removed", "masked"]


@PROTOCOLS.register("perturbation")
class Perturbation(Protocol):
    """Decisions about the test samples while 10% to 90% of the pixels, or words, are removed.

    In order of the relevance for the predicted and for the true class (``target``); the most
    relevant first (``positive``: lower is better) or the least (``negative``: higher is better).
    Accuracy is of both, the probability of the class of the predicted one.
    Of several labels it is the share that the model still finds: of the most probable labels, in
    the order of their relevance, where they are there (``predicted``), and of all labels that are
    there, each in the order of its own (``target``).

    Args:
        fill: what takes the place of pixels: black (the default), mean, blur or other, another
            picture; words are removed (the default) or masked.
    """

    modality = ("image", "text")
    tasks = ("multiclass", "multilabel")
    title = "area under accuracy, and under the probability p, while pixels or words are removed"
    paper_data = "imagenet"
    columns = [
        Column("positive, predicted", "positive_predicted/auc", paper=TABLE_1[0], better="lower"),
        Column("target", "positive_target/auc", paper=TABLE_1[1], better="lower"),
        Column("negative, predicted", "negative_predicted/auc", paper=TABLE_1[2], better="higher"),
        Column("target", "negative_target/auc", paper=TABLE_1[3], better="higher"),
        Column("p, deletion", "probability/deletion", better="lower"),
        Column("insertion", "probability/insertion", better="higher"),
        Column("between", "probability/between", better="higher"),
    ]
    curves = {
        "positive_predicted/accuracy": "accuracy, most relevant removed first",
        "negative_predicted/accuracy": "accuracy, least relevant removed first",
        "probability/most_relevant_first": "probability, most relevant removed first",
        "probability/least_relevant_first": "probability, least relevant removed first",
    }
    x_label = "share removed"

    def __init__(self, module: Classifier, data: DataModule, fill: Fill | None = None) -> None:
        super().__init__(module, data)
        self.removal = removal_of(module, self.source, fill)

    def samples(self) -> Dataset:
        return self.data.test_dataset

    def metrics(self, **options) -> dict[str, SampledMetric]:
        accuracies = {
            f"{order}_{target}": PerturbationAccuracy(**options)
            for order in ORDERS
            for target in ("predicted", "target")
        }
        return {**accuracies, "probability": PerturbationProbability(**options)}

    def begin(self, batch: Mapping[str, Any]) -> None:
        self.removal.begin(batch, self.samples())

    def update(self, metrics: Mapping[str, SampledMetric], explain: Explainer) -> None:
        labels = explain.batch["label"]
        predicted = explain(None)
        everyone = torch.ones_like(predicted.target, dtype=torch.bool)
        logits = self.removed(predicted, everyone)
        self.add_probability(metrics["probability"], predicted, *logits.values())
        if self.module.task.several:
            self.add_labels(metrics, explain, predicted, logits)
            return
        # Where the model is right, the predicted class is the target.
        mistaken = predicted.target != labels
        of_target = self.removed(explain(labels), mistaken) if mistaken.any() else {}
        for order in ORDERS:
            guesses = logits[order][:, : len(STEPS)].argmax(dim=-1)
            metrics[f"{order}_predicted"].update(guesses, labels)
            if of_target:
                guesses[mistaken] = of_target[order][:, : len(STEPS)].argmax(dim=-1)
            metrics[f"{order}_target"].update(guesses, labels)

    def add_labels(
        self,
        metrics: Mapping[str, SampledMetric],
        explain: Explainer,
        highest: Explained,
        logits: Mapping[str, Tensor],
    ) -> None:
        """Whether each label is found, where several may be there; ``highest``: the most probable.

        ``logits``: without parts by the map of that.
        """
        labels = explain.batch["label"]
        is_there = labels.gather(1, highest.target[:, None])[:, 0] > 0.5
        asked = [("predicted", highest, is_there, torch.ones_like(is_there), logits)]
        for target, there in self.module.task.present(labels):
            if there.any():
                explained = explain(target)
                asked.append(("target", explained, there, there, self.removed(explained, there)))
        for order in ORDERS:
            for name, explained, there, of, removed in asked:
                target = explained.target[of][:, None, None].expand(-1, len(STEPS), 1)
                found = self.module.task.found(removed[order][:, : len(STEPS)])
                right = (found.gather(2, target)[..., 0] & there[of][:, None]).long()
                metrics[f"{order}_{name}"].update(right, torch.ones_like(right[:, 0]))

    def add_probability(
        self, metric: SampledMetric, explained: Explained, positive: Tensor, negative: Tensor
    ) -> None:
        """The probability of the class explained, from :meth:`removed` of all samples."""
        places = torch.arange(len(explained.target), device=explained.target.device)
        full, most, least = (
            ACTIVATIONS[self.module.task.activation](precise(logits))[places, ..., explained.target]
            for logits in (explained.logits, positive, negative)
        )
        metric.update(full, most[:, :-1], least, most[:, -1])

    def removed(self, explained: Explained, of: Tensor) -> dict[str, Tensor]:
        """By order the logits of the samples ``of``, bool [B], at every step: [b, steps, C].

        Behind those of ``positive`` are the logits without any part, which the other ends in, too.
        """
        return {
            "positive": self.removal.logits(explained, of, True, [*STEPS, 1.0]),
            "negative": self.removal.logits(explained, of, False, STEPS),
        }
