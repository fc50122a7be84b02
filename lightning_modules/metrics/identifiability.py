"""Where in a model, and in which tokens, the class can be read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.metrics.sampled import SampledMetric

KINDS = ("class_token", "patches", "object", "background")


def identifiability(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - rank / C of the true class: 1 where no class has a larger logit, 1 / C where all have.

    ``logits`` [B, ..., C], ``labels`` [B] -> [B, ...].
    """
    of_truth = logits.gather(-1, labels.view(-1, *[1] * (logits.ndim - 1)).expand_as(logits))
    return 1 - (logits > of_truth).sum(dim=-1).double() / logits.shape[-1]


class Identifiability(SampledMetric):
    """How well the class can be told from single tokens of each block, by the model's own head.

    Vilas, Schaumloeffel, Roig, NeurIPS 2023. Scores are [blocks], the first block's first:

    - ``class_token``, ``patches``, ``object``, ``background``: mean identifiability, 1 - rank of
      the true class / classes, of these tokens; 1 is best, and about a half what chance has.
    - ``patches_rate``, ``object_rate``, ``background_rate``: share of the tokens of which the true
      class is the best.
    - ``change_rate``: share of the patches whose logit of the true class has risen from the block
      before; NaN for the first.

    Each is a mean over samples of means over their tokens; NaN where no sample has such tokens.

    >>> import torch
    >>> metric = Identifiability()
    >>> logits = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]], [[2.0, 0.0], [3.0, 0.0]]]])
    >>> metric.update(logits, torch.tensor([0]), torch.tensor([[True, True]]))
    >>> {name: x.tolist() for name, x in metric.compute().items() if name.startswith("patches")}
    {'patches': [0.75, 1.0], 'patches_rate': [0.5, 1.0]}
    """

    higher_is_better = True

    @property
    def places(self) -> Sequence[float]:
        return range(1, self.rows[0].shape[1] + 1) if self.rows else ()

    def update(
        self,
        logits: Tensor,
        labels: Tensor,
        patches: Tensor,
        own: Tensor | None = None,
        marks: Tensor | None = None,
    ) -> None:
        """Add samples.

        Args:
            logits: of every token of every block, [B, blocks, N, C].
            labels: the true classes, [B].
            patches: which tokens are the input's, bool [B, N].
            own: which are class tokens, bool [B, N]; None: there are none.
            marks: which show the object, bool [B, N], of the samples of which that is known: of
                others nothing is marked. None: of no sample.
        """
        found = identifiability(logits, labels)  # [B, blocks, N]
        none = torch.zeros_like(patches)
        marks = none if marks is None else marks & patches
        known = marks.any(dim=1, keepdim=True)
        kinds = (none if own is None else own, patches, marks, patches & ~marks & known)
        best = (found == 1).double()
        of_truth = logits.gather(-1, labels[:, None, None, None].expand(*logits.shape[:-1], 1))
        risen = torch.full_like(found, torch.nan)
        risen[:, 1:] = (of_truth[:, 1:] > of_truth[:, :-1])[..., 0].double()
        columns = [_mean(found, kind) for kind in kinds]
        columns += [_mean(best, kind) for kind in kinds[1:]]
        self.rows.append(torch.stack([*columns, _mean(risen, patches)], dim=-1))

    def score(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows: [samples, blocks, scores]."""
        names = (*KINDS, *(f"{kind}_rate" for kind in KINDS[1:]), "change_rate")
        return dict(zip(names, rows.nanmean(dim=0).unbind(dim=-1), strict=True))


def _mean(values: Tensor, of: Tensor) -> Tensor:
    """Mean of values [B, blocks, N] over the tokens ``of`` [B, N]; NaN of none."""
    return values.masked_fill(~of[:, None], torch.nan).nanmean(dim=-1)
