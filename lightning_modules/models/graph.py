"""Classifiers of graphs, by Edge-Set Attention."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

from torch import Tensor

from lightning_modules.data.graphs.batches import width_of
from lightning_modules.modalities import Graphs
from lightning_modules.models.blocks import levels_of
from lightning_modules.models.classifier import CLASSIFIERS, Classifier
from lightning_modules.models.edge_attention import (
    LAYERS,
    EdgeSetAttention,
    MlpKind,
    Norm,
    check_layers,
)
from lightning_modules.utils.options import Count, NotNegative, Range

INPUTS = ("edges", "attention_mask", "edge_index")


@CLASSIFIERS.register("graph")
class GraphClassifier(Classifier):
    """A transformer over the edges of graphs, trained from scratch.

    Args:
        class_names: see :class:`Classifier`.
        input_config: see :func:`~lightning_modules.data.graphs.batches.input_config_of`.
        layers: letters: M, edges attend to those that they share a node with; S, to all; P, learned
            queries pool them; S after P, these queries attend to each other. Without P the vector
            of a graph is the mean of its edges.
        width: channels of a token.
        heads: of attention.
        seeds: queries of P.
        mlp: ``standard``, linear layers with a mish between, or ``gated``.
        mlp_width: of the hidden layers of MLPs.
        mlp_layers: of each MLP.
        embed_width: of the hidden layer that makes tokens of edges.
        graph_width: of the vector of a graph.
        norm: ``pre`` or ``post``, where layers normalise.
        dropout: of attention weights and of branches.
        options: those of :class:`Classifier`.

    Batches are those of :class:`~lightning_modules.data.graphs.batches.GraphCollator`.
    """

    reads = ("node_features",)
    no_sources = {}
    kept = {"layers": "MMSP", "heads": 4}
    usual_targets = [("q", "v")]

    def __init__(
        self,
        class_names: list[str],
        input_config: dict[str, Any],
        *,
        layers: Annotated[str, LAYERS] = "MMSP",
        width: Count = 256,
        heads: Count = 4,
        seeds: Count = 32,
        mlp: MlpKind = "standard",
        mlp_width: Count = 512,
        mlp_layers: Count = 2,
        embed_width: Count = 128,
        graph_width: Count = 512,
        norm: Norm = "post",
        dropout: Annotated[float, Range(0, below=1)] = 0.0,
        lr: NotNegative = 1e-4,
        weight_decay: NotNegative = 1e-10,
        **options,
    ) -> None:
        super().__init__(class_names, input_config, lr=lr, weight_decay=weight_decay, **options)
        check_layers("model.layers", layers, width, heads)
        self.backbone = EdgeSetAttention(
            width_of(input_config),
            len(class_names),
            layers=layers,
            width=width,
            heads=heads,
            seeds=seeds,
            embed_width=embed_width,
            graph_width=graph_width,
            dropout=dropout,
            norm=norm,
            mlp=mlp,
            mlp_width=mlp_width,
            mlp_layers=mlp_layers,
        )
        self.choose_trained()

    @cached_property
    def sources(self) -> dict[str, Graphs]:
        return {"graph": Graphs("graph", self.hparams.input_config)}

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        given = {name: batch[name] for name in INPUTS}
        return given | {"edges": batch["edges"].to(self.dtype)}

    def parameter_groups(self) -> list[dict]:
        """Norms, biases, residual weights and seeds do not decay."""
        return self.groups_of(
            levels_of(self.backbone), lambda name, p: p.ndim > 1 and not name.endswith("seeds")
        )

    def largest_batch(self) -> dict[str, Any]:
        """A graph of two nodes: no size is the largest."""
        return self.prepare([self.sources["graph"].smallest()])

    def backbone_options(self) -> tuple[str, str]:
        config = self.hparams.input_config
        return f"model.layers={self.hparams.layers}", (
            f"a model of edges with {width_of(config)} features, {config['node_features']} of each "
            f"end and {config['edge_features']} of their own"
        )

    def without_sources(self) -> dict[str, Any]:
        return {}
