"""BERT-family text classifiers: any of Hugging Face's, by id, folder or configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from lightning_modules.data.texts.pairs import Pair
from lightning_modules.data.texts.tokenizers import vocabulary_size
from lightning_modules.modalities import Texts
from lightning_modules.models.bert_backbone import (
    check_bert_from_scratch,
    create_backbone,
    load_weights,
)
from lightning_modules.models.classifier import CLASSIFIERS, Classifier
from lightning_modules.models.dape import leave_out_positions
from lightning_modules.models.explaining_texts import ExplainingTexts, of_texts
from lightning_modules.models.hf_backbone import HF_TARGETS, describe_backbone, saved_config
from lightning_modules.models.teacher import start_from
from lightning_modules.utils.options import NotNegative, PathThere

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@CLASSIFIERS.register("bert")
class BertClassifier(ExplainingTexts, Classifier):
    """A Hugging Face sequence classifier, fine-tuned or trained from scratch.

    Args:
        class_names: see :class:`Classifier`.
        input_config: tokenizer, ``max_length``, ``overlap`` and ``pairs``, as plain values.
        name: hub id or local folder of a pretrained model, e.g. ``bert-base-uncased``, or
            ``package:NAME/FOLDER`` for a folder of an installed Python package.
        config: or a Hugging Face configuration to train from scratch, with its ``model_type``
            (``bert``, ``distilbert``, ``roberta``, ``electra``) and sizes.
        weights: begin with those of a run's folder or of one of its checkpoints; a head of other
            classes is left out.
        attention: ``sdpa`` or ``eager``; explanations are the same. ``dape``: of a BERT from
            scratch, scores with a bias of the distance, which convolutions adapt to them.
        dape: options of :class:`.dape.Dape`, for that attention; None: the usual ones.
        positions: ``none``: the position embeddings of a BERT from scratch are 0 and not trained.
        previous: go on from a run's folder or one of its checkpoints, with new classes after those
            of it; see :func:`.teacher.start_from`.
        options: those of :class:`Classifier`.

    Batches are those of :class:`~lightning_modules.data.texts.batches.TextCollator`. The logits of
    a text in several windows are the mean of theirs, and all windows are explained for one class.
    """

    reads = ("tokenizer",)
    no_sources = {"name": None, "weights": None, "previous": None}
    kept = {"dape": None, "positions": "absolute"}
    usual_targets = HF_TARGETS

    def __init__(
        self,
        class_names: list[str],
        input_config: dict[str, Any],
        name: str | None = None,
        config: dict[str, Any] | None = None,
        weights: PathThere | None = None,
        attention: str = "sdpa",
        dape: dict[str, Any] | None = None,
        positions: Literal["absolute", "none"] = "absolute",
        *,
        previous: PathThere | None = None,
        lr: NotNegative = 2e-5,
        weight_decay: NotNegative = 0.01,
        **options,
    ) -> None:
        super().__init__(class_names, input_config, lr=lr, weight_decay=weight_decay, **options)
        if positions == "none":
            check_bert_from_scratch("model.positions=none", config)
        self.backbone = create_backbone(name, config, class_names, input_config, attention, dape)
        if weights is not None:
            load_weights(self.backbone, weights, class_names, input_config)
        if previous is not None:
            start_from(self, previous)
        if positions == "none":
            leave_out_positions(self.backbone)
        self.backbone.train()  # transformers loads in evaluation, and Lightning leaves it so
        self.choose_trained()

    @cached_property
    def sources(self) -> dict[str, Texts]:
        return {"text": Texts("text", self.hparams.input_config)}

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = [name for name in MODEL_INPUTS if name in batch]
        if getattr(self.backbone.config, "type_vocab_size", 0) < 2 and "second" in batch:
            names.remove("token_type_ids")  # it knows no second text, as RoBERTa
        return {name: batch[name] for name in names}

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Logits [B, C]."""
        return of_texts(super().forward(batch), batch)

    def parameter_groups(self) -> list[dict]:
        depth = self.backbone.config.num_hidden_layers
        levels = {name: level_of(name, depth) for name, _ in self.backbone.named_parameters()}
        return self.groups_of(levels, lambda name, parameter: parameter.ndim > 1)

    def head_parameters(self) -> set[str]:
        base = {id(parameter) for parameter in self.backbone.base_model.parameters()}
        return {name for name, p in self.backbone.named_parameters() if id(p) not in base}

    def largest_batch(self) -> dict[str, Any]:
        """A text of ``max_length`` tokens, with the last of the vocabulary among them."""
        config = self.hparams.input_config
        text = " ".join("a" * config["max_length"])
        batch = self.prepare([Pair(text, text) if config.get("pairs") else text])
        batch["input_ids"][:, 1] = vocabulary_size(self.sources["text"].tokenizer) - 1
        return batch

    def backbone_options(self) -> tuple[str, str]:
        config = self.hparams.input_config
        return describe_backbone(self.hparams.name, self.hparams.config), (
            f"a model with positions for data.max_length={config['max_length']} tokens, and a "
            f"vocab_size of at least the tokenizer's, "
            f"{vocabulary_size(self.sources['text'].tokenizer)}"
        )

    def without_sources(self) -> dict[str, Any]:
        return self.no_sources | {"config": saved_config(self.backbone)}


def level_of(name: str, depth: int) -> int:
    """0 for the embeddings, 1 to ``depth`` for the blocks, ``depth`` + 1 for the head."""
    block = re.search(r"\.layers?\.(\d+)\.", name)
    if block:
        return int(block[1]) + 1
    return 0 if "embedding" in name else depth + 1
