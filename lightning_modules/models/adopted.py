"""Somebody else's classifier, within a module that is not ours, as one that is explained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning import LightningModule
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn

from lightning_modules.modalities import Images, Modality, Texts
from lightning_modules.modalities.texts.pieces import batch_of_ids
from lightning_modules.models.class_names import are_names
from lightning_modules.models.explaining import ExplainingModule
from lightning_modules.models.explaining_texts import ExplainingTexts
from lightning_modules.models.found_out import (
    Inputs,
    described,
    find_model,
    ids_in,
    inputs_of,
    labels_of,
    picture_in,
    tensors_in,
)
from lightning_modules.utils.errors import InputError


@dataclass(frozen=True)
class Told:
    """What a user says of a module that is not ours; what is None is found out.

    Attributes:
        model: the attribute that is the classifier, dotted, or ``"forward"``: the module itself.
        inputs: makes of a batch what the classifier is called with, a tensor or keywords.
        labels: makes of a batch the labels, [B]; may give None.
        class_names: in the order of the labels.
        normalisation: mean and std that pictures were normalised with.
        tokenizer: Hugging Face's, which made the ids of the texts.
    """

    model: str | None = None
    inputs: Callable[[Any], Any] | None = None
    labels: Callable[[Any], Any] | None = None
    class_names: Sequence[str] | None = None
    normalisation: tuple[Any, Any] | None = None
    tokenizer: Any = None


class Adopted(ExplainingModule):
    """A classifier of somebody else's with one source of inputs; it stays as it is.

    Batches are those of :meth:`batch`.

    Args:
        backbone: the classifier.
        told: what is known of it.
    """

    def __init__(self, backbone: nn.Module, told: Told) -> None:
        super().__init__()
        self.backbone, self.told = backbone, told
        self.class_names: list[str] = []

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

    def batch(self, inputs: Inputs, labels: Tensor | None) -> dict[str, Any]:
        """Inputs and labels with what their modality needs of a batch, on the CPU."""
        return {"inputs": inputs} | ({} if labels is None else {"label": labels})

    def first(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch of a batch's first sample."""
        size = len(next(iter(tensors_in(batch["inputs"]).values())))
        return self.batch(first(batch["inputs"], size, 1), first(batch.get("label"), size, 1))

    def on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch where the classifier is."""
        return move_data_to_device(batch, self.device)

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

    def batch(self, inputs: Inputs, labels: Tensor | None) -> dict[str, Any]:
        """The first batch also says how the pictures are normalised, if nothing else does."""
        pictures = picture_in(inputs)
        if not self.sources:
            mean, std = self._normalisation(pictures)
            self.sources = {"image": AnyImages("image", {"mean": mean, "std": std})}
        return super().batch(inputs, labels) | {"image": pictures}

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

    def batch(self, inputs: Inputs, labels: Tensor | None) -> dict[str, Any]:
        mask = inputs.get("attention_mask") if isinstance(inputs, dict) else None
        words = batch_of_ids(ids_in(inputs), mask, self.told.tokenizer)
        return super().batch(inputs, labels) | words


def adopt(module: LightningModule, batch: Any, told: Told, most: int) -> tuple[Adopted, dict]:
    """The classifier of a module, and the first samples of a batch, at most ``most``, for it.

    Raises:
        InputError: it is not clear which it is, or what it is called with.
    """
    model = find_model(module, told.model)
    inputs = inputs_of(batch, model) if told.inputs is None else told.inputs(batch)
    inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
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
    labels = labels_of(batch) if told.labels is None else told.labels(batch)
    if labels is not None and not are_classes(labels, size):
        if told.labels is not None:
            raise InputError(f"labels= gives {described(labels)}; accepted: integers [{size}]")
        labels = None
    return adopted, adopted.batch(first(inputs, size, most), first(labels, size, most))


def are_classes(labels: Any, size: int) -> bool:
    """Whether they are one class for each of ``size`` samples."""
    is_tensor = isinstance(labels, Tensor) and not labels.is_floating_point()
    return is_tensor and labels.shape == (size,)


def first(value: Any, size: int, most: int) -> Any:
    """The first samples, at most ``most``, of what tensors have ``size`` of; on the CPU."""
    if isinstance(value, dict):
        return {name: first(x, size, most) for name, x in value.items()}
    if not isinstance(value, Tensor):
        return value
    of_samples = value.ndim > 0 and len(value) == size
    return (value[:most] if of_samples else value).detach().cpu().clone()
