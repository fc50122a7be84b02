"""Rationales: are the most relevant words the ones that humans named (the paper's figure 4)?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from lightning_modules.classifier import Classifier
from lightning_modules.data import DataModule, TextDataModule
from lightning_modules.data.text import TextItems
from lightning_modules.errors import InputError
from lightning_modules.metrics import TokenF1
from lightning_modules.protocols.base import Explained, Protocol, Score

KS = (5, 10, 20, 30, 40, 50, 60, 70, 80)


class Rationales(Protocol):
    """Token F1 of the k most relevant words of each test text, for the text's true class."""

    name = "rationales"
    curve = "macro_f1"
    x_name, x_label = "k", "most relevant words chosen"
    y_label = "token F1 (mean over texts)"

    def dataset(self, data: DataModule) -> Dataset:
        if not isinstance(data, TextDataModule):
            raise InputError("--protocol rationales: the data are images; accepted: texts")
        items = [item for item in data.test_dataset.items if item["rationale"]]
        if not items:
            raise InputError(
                "--protocol rationales: the test texts have no rationales; accepted: data with "
                "rationales, as reviews, sst, eraser, or text_table with a rationale_column"
            )
        return TextItems(items)

    def metric(self) -> TokenF1:
        return TokenF1(KS)

    def update(
        self,
        metric: TokenF1,
        module: Classifier,
        batch: Mapping[str, Any],
        explain: Callable[[int | Tensor | None], Explained],
    ) -> None:
        explained = explain(batch["label"])
        metric.update(explained.word_scores, batch["rationale"], explained.seen)

    def scores(self, method: str, metric: TokenF1) -> list[Score]:
        ends = metric.intervals()
        return [
            Score(method, name, k, float(values[i]), *(float(end[i]) for end in ends[name]))
            for name, values in metric.compute().items()
            for i, k in enumerate(metric.ks)
        ]
