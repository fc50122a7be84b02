"""How well the most relevant words are the words that humans named as reasons."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.metrics.sampled import SampledMetric


class TokenF1(SampledMetric):
    """Token F1 of the k most relevant words (the paper's figure 4), for several k.

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

    def __init__(self, ks: Sequence[int], **options) -> None:
        super().__init__(**options)
        self.ks = list(ks)

    def update(self, scores: Tensor, rationale: Tensor, seen: Tensor | None = None) -> None:
        """``scores`` of words [B, W]; ``rationale`` [B, W], True on the words of the reasons.

        ``seen`` [B, W]: False on what is no word, or was cut off: it cannot be chosen, but is
        missed if it is of the rationale.
        """
        rationale, seen = rationale.bool(), torch.ones_like(scores).bool() if seen is None else seen
        order = scores.masked_fill(~seen, -torch.inf).argsort(dim=1, descending=True, stable=True)
        found = (rationale & seen).gather(1, order).double().cumsum(dim=1)
        k = torch.tensor(self.ks, device=scores.device).expand(len(scores), -1)
        k = k.minimum(seen.sum(dim=1, keepdim=True))
        hits = found.gather(1, (k - 1).clamp(min=0)) * (k > 0)
        wanted = rationale.sum(dim=1, keepdim=True).expand_as(k)
        counts = torch.stack([hits, k.double(), wanted.double()], dim=-1)  # [B, K, 3]
        self.rows.append(counts[wanted[:, 0] > 0])

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        micro = precision_recall_f1(rows.sum(dim=0))
        macro = [x.mean(dim=0) for x in precision_recall_f1(rows)]
        names = ("precision", "recall", "f1")
        return {f"micro_{n}": x for n, x in zip(names, micro, strict=True)} | {
            f"macro_{n}": x for n, x in zip(names, macro, strict=True)
        }


def precision_recall_f1(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From [..., 3]: words both chosen and wanted, chosen, wanted. 0 where nothing was chosen."""
    hits, chosen, wanted = counts.unbind(-1)
    precision = hits / chosen.clamp(min=1)
    recall = hits / wanted.clamp(min=1)
    return precision, recall, 2 * hits / (chosen + wanted).clamp(min=1)
