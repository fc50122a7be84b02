"""Graphs: how they are read, explained, drawn and watched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

import relprop
from lightning_modules.data.graphs.batches import rows_of
from lightning_modules.data.graphs.graph import ACCEPTED, Graph, read_graph
from lightning_modules.data.graphs.jsonl import check_features
from lightning_modules.data.texts.files import Line, read_lines, read_text
from lightning_modules.metrics import RationaleAUPRC, TokenF1
from lightning_modules.modalities.base import MODALITIES, Modality
from lightning_modules.modalities.graphs.draw import draw_graph
from lightning_modules.modalities.graphs.explained import ExplainedGraphs
from lightning_modules.modalities.graphs.part import GraphPart
from lightning_modules.utils.errors import InputError


@MODALITIES.register("graph")
class Graphs(Modality):
    """Graphs; batches are those of :class:`~lightning_modules.data.graphs.batches.GraphCollator`.

    Args:
        source: their name.
        input_config: see :func:`~lightning_modules.data.graphs.batches.input_config_of`.
    """

    called = "graph"
    endings = (".json", ".jsonl")
    axes = ("edge",)
    pipeline = "graph-ml"

    # ------------------------------------------------------------------ from files to the model

    def within(self, path: Path) -> Sequence[Path | Line]:
        """A .json file is a graph, a .jsonl file one a line."""
        if path.suffix.lower() != ".jsonl":
            return [path]
        return [Line(path, *line) for line in read_lines(path, ACCEPTED)]

    def read(self, path: Path | Line) -> Graph:
        text = path.text if isinstance(path, Line) else read_text(path, ACCEPTED)
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: malformed JSON ({error}); accepted: {ACCEPTED}") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}: no JSON object; accepted: {ACCEPTED}")
        graph, config = read_graph(row, str(path), self.input_config["directed"]), self.input_config
        check_features(graph, config["node_features"], config["edge_features"], str(path))
        return graph

    def batch(self, contents: Sequence[Graph]) -> dict[str, Any]:
        return rows_of(contents, self.input_config["directed"])

    def smallest(self) -> Graph:
        """A graph of two nodes with an edge between them, whose features are 0."""
        sizes = (self.input_config[x] for x in ("node_features", "edge_features"))
        nodes, edges = (np.zeros((n, m), np.float32) for n, m in zip((2, 1), sizes, strict=True))
        return Graph(nodes, np.array([[0, 1]]), edges)

    def explained(
        self, batch: Mapping[str, Any], explanation: relprop.Explanation
    ) -> ExplainedGraphs:
        return ExplainedGraphs.of_batch(batch, explanation)

    # -------------------------------------------------------------------------------- drawing

    def content(self, batch: Mapping[str, Any], sample: int) -> Graph:
        return batch["graph"][sample]

    def draw(self, content: Graph, relevance: np.ndarray | None, signed: bool) -> np.ndarray:
        """Edges that are known to decide are marked where no relevance is drawn."""
        return draw_graph(content, relevance, signed, self.input_config)

    def marks_shown(self, content: Graph) -> str | None:
        return None if content.deciding is None or not content.deciding.any() else "green decides"

    def part(
        self,
        content: Graph,
        batch: Mapping[str, Any],
        sample: int,
        relevance: dict[str, np.ndarray],
    ) -> GraphPart:
        count = len(content.edges)
        return GraphPart(self, content, {name: maps[:, :count] for name, maps in relevance.items()})

    # -------------------------------------------------------------------------- while training

    def scores(self, batch: Mapping[str, Any], *explained: ExplainedGraphs) -> dict[str, Tensor]:
        """The most relevant edges against those that decide, of the graphs that know them."""
        if "deciding" not in batch or batch["label"].ndim > 1 or not batch["deciding"].any():
            return {}
        f1, auprc = TokenF1(None, sync_on_compute=False), RationaleAUPRC(sync_on_compute=False)
        for x in explained:
            scored = (x.edge_scores.float().cpu(), batch["deciding"].cpu(), x.seen.cpu())
            f1.update(*scored)
            auprc.update(*scored, x.counts.cpu())
        return {"edge_f1": f1.compute()["macro_f1"], "edge_auprc": auprc.compute()["auprc"]}

    def marks(self, batch: Mapping[str, Any], target: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of the edges that decide, [B, E], of graphs that know some."""
        if "deciding" not in batch or batch["label"].ndim > 1:
            return super().marks(batch, target)
        places = batch["edge_of_token"]
        marks = batch["deciding"].gather(1, places.clamp(min=0)) & (places >= 0)
        return marks, batch["has_deciding"] & marks.any(dim=1)

    def beside(
        self, explained: ExplainedGraphs, marks: Tensor, drawn: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """Tokens, without padding."""
        marks = marks.to(explained.relevance)
        real = explained.edge_of_token >= 0
        rows = zip(explained.relevance, marks, real, strict=True)
        return [(S[None, kept], m[None, kept]) for S, m, kept in rows]
