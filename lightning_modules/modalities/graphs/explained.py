"""Explanations of graphs: from the relevance of directed edges to that of edges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

import relprop
from lightning_modules.modalities.explained import Explained


@dataclass(frozen=True, kw_only=True)
class ExplainedGraphs(Explained):
    """The relevance of each token and each edge for one class a graph.

    Attributes:
        relevance: of tokens, [B, E], 0 on padding. An undirected edge is two of them.
        edge_of_token: int [B, E], the edge of each token, -1 on padding.
    """

    edge_of_token: Tensor

    @classmethod
    def of_batch(
        cls, batch: Mapping[str, Any], explanation: relprop.Explanation
    ) -> ExplainedGraphs:
        """``batch`` as of :func:`~lightning_modules.data.graphs.batches.rows_of`."""
        return cls.of(explanation, edge_of_token=batch["edge_of_token"])

    @cached_property
    def seen(self) -> Tensor:
        """False beyond a graph's last edge, bool [B, K]."""
        return (
            torch.arange(int(self.counts.max()), device=self.counts.device) < self.counts[:, None]
        )

    @property
    def counts(self) -> Tensor:
        """How many edges each graph has, int [B]."""
        return self.edge_of_token.amax(dim=1) + 1

    @cached_property
    def edge_scores(self) -> Tensor:
        """The sum of an edge's tokens, which are its directions: [B, K]; 0 beyond the last edge."""
        return self.of_edges(self.relevance)

    def of_edges(self, values: Tensor) -> Tensor:
        """The sum of the ``values`` [B, E] of each edge's tokens, [B, K]."""
        places = self.edge_of_token.to(values.device)
        found = values.new_zeros(len(values), self.seen.shape[1] + 1)  # one more, for padding
        places = torch.where(places < 0, self.seen.shape[1], places)
        return found.scatter_add(1, places, values)[:, :-1]

    @property
    def maps(self) -> Tensor:
        return self.edge_scores.masked_fill(~self.seen.to(self.relevance.device), torch.nan)

    def arrays(self) -> np.ndarray:
        return self.maps.detach().float().cpu().numpy()
