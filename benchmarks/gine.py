"""A message-passing network with edge features, beside which Edge-Set Attention is measured."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch_geometric.nn import GINEConv, global_add_pool, global_mean_pool

from lightning_modules.modalities import Graphs
from lightning_modules.models.blocks import levels_of
from lightning_modules.models.classifier import Classifier
from lightning_modules.utils.options import Count

Reduction = Literal["sum", "mean"]
POOLS = {"sum": global_add_pool, "mean": global_mean_pool}


class GINE(nn.Module):
    """Message passing with edge features (Hu et al., ICLR 2020; Xu et al., ICLR 2019).

    Published are sums. Of means over neighbours (``aggregate``) a node does not know how many it
    has, and of the mean of all nodes (``pool``) a graph does not.
    """

    def __init__(
        self,
        nodes: int,
        edges: int,
        width: int,
        depth: int,
        classes: int,
        aggregate: Reduction,
        pool: Reduction,
    ) -> None:
        super().__init__()
        self.pool = POOLS[pool]
        self.embed = nn.Linear(nodes, width)
        self.layers = nn.ModuleList(
            GINEConv(
                nn.Sequential(
                    nn.Linear(width, width),
                    nn.BatchNorm1d(width),
                    nn.ReLU(),
                    nn.Linear(width, width),
                    nn.ReLU(),
                ),
                edge_dim=edges,
                aggr=aggregate,
            )
            for _ in range(depth)
        )
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, classes)
        )

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, graph: Tensor) -> Tensor:
        """Logits [B, C] of the nodes x [N, n] of all graphs; ``graph`` [N] says of which."""
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x, edge_index, edge_attr)
        return self.head(self.pool(x, graph))


class GINEClassifier(Classifier):
    """GINE on the batches of Edge-Set Attention."""

    no_sources: dict[str, Any] = {}

    def __init__(
        self,
        class_names: list[str],
        input_config: dict,
        width: Count = 64,
        depth: Count = 4,
        aggregate: Reduction = "sum",
        pool: Reduction = "sum",
        **options,
    ) -> None:
        super().__init__(class_names, input_config, **options)
        sizes = [input_config[x] for x in ("node_features", "edge_features")]
        self.backbone = GINE(*sizes, width, depth, len(class_names), aggregate, pool)
        self.choose_trained()

    @cached_property
    def sources(self) -> dict[str, Graphs]:
        return {"graph": Graphs("graph", self.hparams.input_config)}

    def parameter_groups(self) -> list[dict]:
        return self.groups_of(levels_of(self.backbone), lambda name, p: p.ndim > 1)

    def largest_batch(self) -> dict[str, Any]:
        return self.prepare([self.sources["graph"].smallest()])

    def without_sources(self) -> dict[str, Any]:
        return {}

    def inputs(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        counts = torch.tensor([len(graph.nodes) for graph in batch["graph"]])
        starts = counts.cumsum(0) - counts
        real, n = batch["attention_mask"].bool(), self.hparams.input_config["node_features"]
        index = batch["edge_index"] + starts.to(batch["edge_index"])[:, None, None]
        return {
            "x": torch.cat([torch.from_numpy(graph.nodes) for graph in batch["graph"]]),
            "edge_index": index[real].T,
            "edge_attr": batch["edges"][real][:, 2 * n :],
            "graph": torch.arange(len(counts)).repeat_interleave(counts),
        }

    def backbone_options(self) -> tuple[str, str]:
        return "model.kind=gine", "graphs"
