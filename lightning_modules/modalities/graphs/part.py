"""A graph that was explained: what files have of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from lightning_modules.modalities.base import Part


@dataclass(frozen=True)
class GraphPart(Part):
    """A graph with its maps, [T, K] of edges."""

    side: ClassVar[int] = 240

    def json(self) -> dict[str, Any]:
        """Its edges in the order of the maps, how many nodes it has, and what decides, if known."""
        graph = self.content
        found = {"nodes": len(graph.nodes), "edges": graph.edges.tolist()}
        if graph.deciding is not None:
            found["deciding"] = graph.edges[graph.deciding].tolist()
        return found
