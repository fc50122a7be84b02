"""Deciding edges: are the most relevant edges of a graph those that decide its label?"""

from __future__ import annotations

from collections.abc import Mapping

from torch.utils.data import Dataset

from lightning_modules.data.graphs.base import GraphItems
from lightning_modules.metrics import RationaleAUPRC, SampledMetric, TokenF1
from lightning_modules.protocols.base import PROTOCOLS, Column, Protocol
from lightning_modules.protocols.explainer import Explainer
from lightning_modules.utils.errors import InputError


@PROTOCOLS.register("edges")
class DecidingEdges(Protocol):
    """Of each test graph that knows its deciding edges, for its true class.

    AUPRC of all edges by relevance, and F1 of as many of the most relevant as decide: the scores of
    rationales, with edges for words. An undirected edge's relevance is that of both directions.
    """

    modality = "graph"
    title = "the most relevant edges as those that decide, mean over graphs"
    columns = [
        Column("AUPRC", "auprc/auprc", better="higher"),
        Column("F1", "f1/macro_f1", better="higher"),
    ]

    def samples(self) -> Dataset:
        dataset = self.data.test_dataset
        graphs = ((x, x["graph"].deciding) for x in map(dataset.__getitem__, range(len(dataset))))
        items = [x for x, deciding in graphs if deciding is not None and deciding.any()]
        if not items:
            raise InputError(
                "--protocol edges: no test graph knows the edges that decide; accepted: "
                "coloured_edges, or graph_jsonl with deciding edges"
            )
        return GraphItems(items)

    def metrics(self, **options) -> dict[str, SampledMetric]:
        return {"auprc": RationaleAUPRC(**options), "f1": TokenF1(None, **options)}

    def update(self, metrics: Mapping[str, SampledMetric], explain: Explainer) -> None:
        batch = explain.batch
        explained = explain(batch["label"])
        scored = (explained.edge_scores, batch["deciding"], explained.seen)
        metrics["auprc"].update(*scored, explained.counts)
        metrics["f1"].update(*scored)
