"""Somebody else's classifier, within a module that is not ours, as one that is explained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

import relprop
from lightning_modules.modalities import Images, Modality, Texts
from lightning_modules.modalities.texts.pieces import TELLING, batch_of_ids
from lightning_modules.models.class_names import are_names
from lightning_modules.models.explaining import ExplainingModule
from lightning_modules.models.explaining_texts import ExplainingTexts
from lightning_modules.models.found_out import (
    ENDS,
    Inputs,
    are_classes,
    check_mask,
    described,
    find_model,
    ids_in,
    inputs_of,
    labels_of,
    picture_in,
    tensors_in,
)
from lightning_modules.models.own_forward import own_forward
from lightning_modules.models.told import Told
from lightning_modules.tasks import Multiclass, Task
from lightning_modules.utils.errors import InputError, as_input_error


class Adopted(ExplainingModule):
    """A classifier of somebody else's with one source of inputs; it stays as it is.

    Batches are those of :meth:`make_batch`.

    Args:
        backbone: the classifier.
        told: what is known of it.
    """

    def __init__(self, backbone: nn.Module, told: Told) -> None:
        super().__init__()
        self.backbone, self.told = backbone, told
        self.class_names: list[str] = []

    @property
    def task(self) -> Task:
        return Multiclass(self.class_names)

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    def inputs(self, batch: Mapping[str, Any]) -> Inputs:
        """In the precision of the classifier's weights."""
        given = batch["inputs"]
        if isinstance(given, Tensor):
            return self._precise(given)
        return {name: self._precise(x) for name, x in given.items()}

    def _precise(self, x: Any) -> Any:
        kinds = (p.dtype for p in self.backbone.parameters() if p.is_floating_point())
        if isinstance(x, Tensor) and x.is_floating_point():
            return x.to(next(kinds, x.dtype))
        return x

    def make_batch(self, inputs: Inputs, labels: Tensor | None) -> dict[str, Any]:
        """Inputs and labels with what their modality needs of a batch, on the CPU."""
        return {"inputs": inputs} | ({} if labels is None else {"label": labels})

    def on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch where the classifier is."""
        return move_data_to_device(batch, self.device)

    def check_labels(self, batch: Mapping[str, Any], count: int) -> None:
        """Raises an InputError if one of a batch's labels is none of ``count`` classes."""
        most = int(batch["label"].max()) if "label" in batch else 0
        if most >= count:
            raise InputError(
                f"a label is {most}; accepted: 0 to {count - 1}, or less than 0 where a sample "
                "has none, which labels=lambda batch: ... may give"
            )

    def name_classes(self, count: int) -> None:
        """Names for ``count`` classes: those told, else the classifier's own, else numbers.

        Raises:
            InputError: as many are not told, or there is no second class.
        """
        if count < 2:
            raise InputError("the model has 1 output; accepted: one for each class, 2 or more")
        told, numbers = self.told.class_names, [str(n) for n in range(count)]
        if told is not None and len(told) != count:
            raise InputError(f"class_names has {len(told)} names; accepted: {count}, as logits")
        known = getattr(getattr(self.backbone, "config", None), "id2label", None) or {}
        own = [str(known.get(n, n)) for n in range(count)]
        self.class_names = list(told or (own if are_names(own) else numbers))


class AdoptedImages(Adopted):
    """Of pictures [B, C, H, W]."""

    sources: dict[str, Modality] = {}

    def make_batch(self, inputs: Inputs, labels: Tensor | None) -> dict[str, Any]:
        """The first batch also says how the pictures are normalised, if nothing else does."""
        pictures = picture_in(inputs)
        if not self.sources:
            mean, std = self._normalisation(pictures)
            self.sources = {"image": AnyImages("image", {"mean": mean, "std": std})}
        return super().make_batch(inputs, labels) | {"image": pictures}

    def _normalisation(self, pictures: Tensor) -> tuple[list[float], list[float]]:
        """Mean and std as told, or as timm has it, or so that the pictures span 0..1."""
        channels = pictures.shape[1]
        if self.told.normalisation is not None:
            pair = [torch.as_tensor(x).float().flatten().tolist() for x in self.told.normalisation]
            if len(pair) != 2 or any(len(x) not in (1, channels) for x in pair):
                raise InputError(
                    f"normalisation is {self.told.normalisation!r}; accepted: (mean, std), a "
                    f"number each, or {channels}, one a channel"
                )
            return pair[0], pair[1]
        for part in self.backbone.modules():
            known = getattr(part, "pretrained_cfg", None) or {}
            if "mean" in known and len(known["mean"]) in (1, channels):
                return list(known["mean"]), list(known["std"])
        low, high = pictures.min().item(), pictures.max().item()
        width = max(high - low, 1e-6)
        return [-low / width], [1 / width]


class AnyImages(Images):
    """Pictures of any number of channels; of others than one and three their mean is drawn."""

    def pictures(self, batch: Mapping[str, Any]) -> Tensor:
        pictures = super().pictures(batch)
        if pictures.shape[1] != 3:
            pictures = pictures.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
        return pictures


class AdoptedTexts(ExplainingTexts, Adopted):
    """Of ids of tokens [B, N]."""

    sources: dict[str, Modality] = {"text": Texts("text", {})}

    def make_batch(self, inputs: Inputs, labels: Tensor | None) -> dict[str, Any]:
        ids = ids_in(inputs)
        mask = inputs.get("attention_mask") if isinstance(inputs, dict) else None
        kept = torch.ones_like(ids) if mask is None else mask
        words = batch_of_ids(ids, mask, self.told.tokenizer, self._ends(inputs, kept.bool()))
        return super().make_batch(inputs, labels) | words

    def _ends(self, inputs: Inputs, kept: Tensor) -> list[int]:
        """The special tokens at the ends of texts, as the configuration or the head has them.

        The head is only asked where there are too few texts to compare. ``kept``: False on
        padding, [B, N].
        """
        config, lengths = getattr(self.backbone, "config", None), kept.sum(dim=1)
        known = [getattr(config, f"{name}_token_id", None) for name in ENDS]
        known = [x for x in known if isinstance(x, int)]
        if known or self.told.tokenizer is not None or (lengths >= TELLING).sum() > 1:
            return known
        trace = self.record(self.on_device({"inputs": inputs}))
        try:
            weights = trace.token_weights(trace.logits.argmax(dim=1))
        except relprop.UnsupportedModel:
            return []
        row = lengths.argmax()
        place = kept[row].int().argmax()
        reads_it_alone = weights[row, place] > 1 - 1e-6
        return [int(ids_in(inputs)[row, place])] if reads_it_alone else []


def adopt(
    module: LightningModule, batch: Any, told: Told, most: int
) -> tuple[Adopted, dict[str, Any]]:
    """The classifier of a module, and the first samples of a batch, at most ``most``, for it.

    Where some samples have labels the others are left out.

    Raises:
        InputError: it is not clear which it is, or what it is called with.
    """
    name, model = find_model(module, told.model)
    inputs = given_inputs(module, batch, told, name, model)
    if picture_in(inputs) is not None:
        adopted = AdoptedImages(model, told)
    elif ids_in(inputs) is not None:
        adopted = AdoptedTexts(model, told)
    else:
        raise InputError(
            f"the model's inputs are {described(inputs)}; accepted: pictures [B, C, H, W] of "
            "floats, or ids of tokens [B, N], which inputs=lambda batch: ... may give"
        )
    size = len(next(iter(tensors_in(inputs).values())))
    labels, called = given_labels(batch, told, size)
    rows = torch.arange(size) if labels is None else (labels >= 0).nonzero().flatten().cpu()
    if labels is None or not len(rows):
        labels, rows, called = None, torch.arange(size), "the predicted classes alone (no labels)"
    left = "" if len(rows) == size else f"; {size - len(rows)} of {size} samples have none"
    rank_zero_info(
        f"RelevanceTracker explains {name!r} ({type(model).__name__}) for {called}{left}"
    )
    rows = rows[:most]
    return adopted, adopted.make_batch(rows_of(inputs, size, rows), rows_of(labels, size, rows))


def given_inputs(
    module: LightningModule, batch: Any, told: Told, name: str, model: nn.Module
) -> Inputs:
    """What a classifier of that name is called with, as told, or as found out and checked."""
    inputs = None
    if told.inputs is None:
        inputs = inputs_of(batch, model, told.labels is not None)
    seen = False
    around = None if model is module else own_forward(module, model, name)
    if around is not None and not (told.model and told.inputs):
        seen = around.check(batch, inputs, sole=told.model is None)
    if inputs is None:
        with as_input_error("inputs=", "a function of a batch that gives a tensor or keywords"):
            inputs = told.inputs(batch)
    elif not seen:
        check_mask(inputs, model)
    return dict(inputs) if isinstance(inputs, Mapping) else inputs


def given_labels(batch: Any, told: Told, size: int) -> tuple[Tensor | None, str]:
    """The labels [B], as told or as found out, and how a message calls them."""
    if told.labels is None:
        labels, called = labels_of(batch)
        return (labels if are_classes(labels, size) else None), f"the labels ({called})"
    with as_input_error("labels=", "a function of a batch that gives integers [B], or None"):
        labels = told.labels(batch)
    if labels is not None and not are_classes(labels, size):
        raise InputError(f"labels= gives {described(labels)}; accepted: integers [{size}]")
    return labels, "the labels of labels="


def rows_of(value: Any, size: int, rows: Tensor) -> Any:
    """Samples of whatever has ``size`` of them, by their numbers; of tensors a copy, on the CPU."""
    if isinstance(value, dict):
        return {name: rows_of(x, size, rows) for name, x in value.items()}
    if isinstance(value, list) and len(value) == size:
        return [value[row] for row in rows.tolist()]
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    return value[rows] if value.ndim > 0 and len(value) == size else value.clone()
