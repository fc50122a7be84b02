"""How well the most relevant words are the words that humans named as reasons."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sklearn.metrics import auc, precision_recall_curve
from torch import Tensor

from lightning_modules.metrics.sampled import SampledMetric


class TokenF1(SampledMetric):
    """Token F1 of the k most relevant words (the paper's figure 4), for several k.

    Or, with ``ks`` None, for the k that is each text's own: the number of its rationale's words.

    ERASER (DeYoung et al. 2020) averages precision, recall and F1 in two ways: ``micro`` from the
    words of all texts together, ``macro`` as the mean over texts. All 0 to 1, higher is better,
    [len(ks)]. A text without a rationale says nothing and is left out; of a text with fewer than k
    words all are chosen.

    >>> import torch
    >>> metric = TokenF1(ks=[1, 2])
    >>> metric.update(torch.tensor([[0.9, 0.1, 0.5]]), torch.tensor([[True, False, False]]))
    >>> [round(f1.item(), 2) for f1 in metric.compute()["macro_f1"]]
    [1.0, 0.67]
    """

    higher_is_better = True

    def __init__(self, ks: Sequence[int] | None, **options) -> None:
        super().__init__(**options)
        self.places = [None] if ks is None else list(ks)

    def update(self, scores: Tensor, rationale: Tensor, seen: Tensor | None = None) -> None:
        """``scores`` of words [B, W]; ``rationale`` [B, W], True on the words of the reasons.

        ``seen`` [B, W]: False on what is no word, or was cut off: it cannot be chosen, but is
        missed if it is of the rationale.
        """
        rationale, seen = rationale.bool(), torch.ones_like(scores).bool() if seen is None else seen
        order = scores.masked_fill(~seen, -torch.inf).argsort(dim=1, descending=True, stable=True)
        found = (rationale & seen).gather(1, order).double().cumsum(dim=1)
        wanted = rationale.sum(dim=1, keepdim=True)
        k = wanted
        if self.places != [None]:
            k = torch.tensor(self.places, device=scores.device).expand(len(scores), -1)
        k = k.minimum(seen.sum(dim=1, keepdim=True))
        hits = found.gather(1, (k - 1).clamp(min=0)) * (k > 0)
        wanted = wanted.expand_as(k)
        counts = torch.stack([hits, k.double(), wanted.double()], dim=-1)  # [B, K, 3]
        self.rows.append(counts[wanted[:, 0] > 0])

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        micro = precision_recall_f1(rows.sum(dim=0))
        macro = [x.mean(dim=0) for x in precision_recall_f1(rows)]
        names = ("precision", "recall", "f1")
        return {f"micro_{n}": x for n, x in zip(names, micro, strict=True)} | {
            f"macro_{n}": x for n, x in zip(names, macro, strict=True)
        }


class RationaleAUPRC(SampledMetric):
    """Area under the precision-recall curve of words ranked by relevance, mean over texts.

    ERASER's soft score, 0..1, higher is better; texts without a rationale are left out. Words that
    were cut off rank last.

    >>> import torch
    >>> metric, seen = RationaleAUPRC(), torch.ones(1, 3).bool()
    >>> rationale = torch.tensor([[True, False, True]])
    >>> metric.update(torch.tensor([[0.9, 0.1, 0.5]]), rationale, seen, torch.tensor([3]))
    >>> float(metric.compute()["auprc"])
    1.0
    """

    higher_is_better = True

    def update(self, scores: Tensor, rationale: Tensor, seen: Tensor, counts: Tensor) -> None:
        """``scores``, ``rationale``, ``seen`` [B, W]; ``counts`` [B]: the words of each text."""
        ranked = scores.double().masked_fill(~seen, -torch.inf)
        lowest = scores.double().masked_fill(~seen, torch.inf).amin(dim=1, keepdim=True)
        ranked = torch.where(seen, ranked, lowest - 1).cpu()
        areas = []
        for row, truth, count in zip(ranked, rationale.bool().cpu(), counts.tolist(), strict=True):
            if truth.any():
                precision, recall, _ = precision_recall_curve(truth[:count], row[:count])
                areas.append(auc(recall, precision))
        self.rows.append(torch.tensor(areas, dtype=torch.float64))

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        return {"auprc": rows.mean()}


class Faithfulness(SampledMetric):
    """What the most relevant words do to the probability p of the class (DeYoung et al. 2020).

    ``comprehensiveness``: p falls when they are taken out, higher is better. ``sufficiency``: p
    stays when they alone are left, lower is better. Both are averaged over shares of the words
    (their AOPC: 1 / (|B| + 1) times the sum over the |B| shares, the share 0 adding nothing).

    >>> import torch
    >>> metric = Faithfulness()
    >>> metric.update(torch.tensor([1.0]), torch.tensor([[0.75, 0.25]]), torch.tensor([[0.5, 1.0]]))
    >>> {name: round(float(value), 3) for name, value in metric.compute().items()}
    {'comprehensiveness': 0.333, 'sufficiency': 0.167}
    """

    def update(self, full: Tensor, without: Tensor, alone: Tensor) -> None:
        """``full`` [B]; ``without`` and ``alone`` [B, shares]: p of the class of ``full``."""
        falls = torch.stack([full[:, None] - without, full[:, None] - alone], dim=-1)
        self.rows.append(falls.double().sum(dim=1) / (falls.shape[1] + 1))

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        comprehensiveness, sufficiency = rows.mean(dim=0)
        return {"comprehensiveness": comprehensiveness, "sufficiency": sufficiency}


def precision_recall_f1(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From [..., 3]: words both chosen and wanted, chosen, wanted. 0 where nothing was chosen."""
    hits, chosen, wanted = counts.unbind(-1)
    precision = hits / chosen.clamp(min=1)
    recall = hits / wanted.clamp(min=1)
    return precision, recall, 2 * hits / (chosen + wanted).clamp(min=1)
