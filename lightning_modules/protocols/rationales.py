"""Rationales: are the most relevant words the ones that humans named (the paper's figure 4)?"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_modules.data.texts.base import TextItems
from lightning_modules.metrics import Faithfulness, RationaleAUPRC, SampledMetric, TokenF1
from lightning_modules.modalities.texts.explained import ExplainedTexts
from lightning_modules.protocols.base import PROTOCOLS, Column, Protocol
from lightning_modules.protocols.explainer import Explainer
from lightning_modules.utils.errors import InputError

KS = (5, 10, 20, 30, 40, 50, 60, 70, 80)
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)  # ERASER's
TEXTS = 32  # classified at a time


@PROTOCOLS.register("rationales")
class Rationales(Protocol):
    """Of each test text with a rationale.

    For its true class: token F1 of the k most relevant words, and AUPRC of all. For the predicted
    class: comprehensiveness and sufficiency.
    """

    modality = "text"
    title = "token F1 of the k most relevant words, mean over texts"
    columns = [Column(str(k), "f1/macro_f1", k, better="higher") for k in KS]
    columns += [
        Column("AUPRC", "auprc/auprc", better="higher"),
        Column("compr.", "faithfulness/comprehensiveness", better="higher"),
        Column("suff.", "faithfulness/sufficiency", better="lower"),
    ]
    curves = {"f1/macro_f1": "token F1 (mean over texts)"}
    x_label = "k, most relevant words chosen"

    def samples(self) -> Dataset:
        dataset = self.data.test_dataset
        items = [x for x in map(dataset.__getitem__, range(len(dataset))) if x["rationale"]]
        if not items:
            raise InputError(
                "--protocol rationales: the test texts have no rationales; accepted: data with "
                "rationales, as reviews, sst, eraser, or text_table with a rationale_column"
            )
        return TextItems(items)

    def metrics(self, **options) -> dict[str, SampledMetric]:
        return {
            "f1": TokenF1(KS, **options),
            "auprc": RationaleAUPRC(**options),
            "faithfulness": Faithfulness(**options),
        }

    def update(self, metrics: Mapping[str, SampledMetric], explain: Explainer) -> None:
        batch = explain.batch
        explained = explain(batch["label"])
        metrics["f1"].update(explained.word_scores, batch["rationale"], explained.seen)
        counts = torch.tensor([len(words) for words in explained.words])
        metrics["auprc"].update(explained.word_scores, batch["rationale"], explained.seen, counts)
        of_predicted = explain(None)
        metrics["faithfulness"].update(*self.probabilities(of_predicted))

    @torch.no_grad()
    def probabilities(self, explained: ExplainedTexts) -> tuple[Tensor, Tensor, Tensor]:
        """Of the class explained: of all words seen [B], without the most relevant share of them,
        and of that share alone, [B, shares]."""
        texts = []
        for i in range(len(explained.text)):
            words = explained.words_of(i)
            order = sorted(range(len(words)), key=lambda j, words=words: -words[j][1])
            texts.append(explained.made_of(i, set(order)))
            for share in SHARES:
                count = math.ceil(share * len(words))
                texts += [explained.made_of(i, set(x)) for x in (order[count:], order[:count])]
        logits = [
            self.module(self.module.prepare(texts[start : start + TEXTS]))
            for start in range(0, len(texts), TEXTS)
        ]
        p = torch.cat(logits).softmax(dim=-1).unflatten(0, (len(explained.text), -1))
        p = p[torch.arange(len(p)), :, explained.target]  # [B, 1 + 2 * shares]
        return p[:, 0], p[:, 1::2], p[:, 2::2]
