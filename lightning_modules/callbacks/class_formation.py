"""How the class forms from block to block: curves and a picture of the watched samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import relprop
from lightning_modules.metrics.identifiability import Identifiability
from lightning_modules.models.explaining import ExplainingModule
from lightning_modules.tasks import Caption
from lightning_modules.utils.errors import InputError
from relprop.from_trace import explanation_of

if TYPE_CHECKING:
    from lightning_modules.callbacks.watch import Watch

FIGURES = ("class_token", "patches", "object", "background")


def report_formation(watch: Watch, trace: relprop.Trace, batch: Mapping[str, Any]) -> None:
    """Add ``class_embedding/...`` of a recorded batch to a report, and the picture ``blocks``.

    The classes are the true ones, or the predicted ones where no label is known.
    """
    module = watch.module
    logits = module.logits(trace, batch)
    labels = batch.get("label")
    labels = logits.argmax(dim=1) if labels is None else labels.to(logits.device)
    metric = measured(module, trace, batch, labels)
    for name, values in metric.compute().items():
        if name in FIGURES and not values.isnan().any():
            for block, value in enumerate(values, start=1):
                watch.report.class_embedding[f"{name}/block_{block}"] = value
    watch.report.pictures["blocks"] = formation_picture(watch, trace, batch, labels)


def check_formation(module: ExplainingModule, trace: relprop.Trace) -> None:
    """Raises InputError where single tokens of the blocks have no class."""
    if module.task.name != "multiclass":
        raise InputError(
            f"class_embedding is of classes one of which is right, and the task is "
            f"{module.task.name}; accepted: the task multiclass, or class_embedding=false"
        )
    if len(trace.sources) > 1:
        raise InputError(
            f"class_embedding is of a model of one input, and this has {', '.join(trace.sources)}; "
            "accepted: class_embedding=false"
        )
    try:
        trace.project(trace.states()[-1][:, :1])
    except relprop.UnsupportedModel as error:
        raise InputError(f"class_embedding: {error}, or class_embedding=false") from error


def measured(
    module: ExplainingModule, trace: relprop.Trace, batch: Mapping[str, Any], labels: Tensor
) -> Identifiability:
    """The metric of a recorded batch, sample by sample, or row by row of texts."""
    rows = module.per_row(labels, batch)
    logits = torch.stack([trace.project(state) for state in trace.states()], dim=1)
    read = trace.token_weights(rows) > 0
    places = torch.arange(read.shape[1], device=read.device) - trace.prefix
    patches = ((places >= 0) & (places < trace.places.count)).expand_as(read)
    if trace.valid is not None:
        patches = patches & trace.valid
    if "special" in batch and batch["special"].shape == patches.shape:
        patches = patches & ~batch["special"].to(patches.device)
    metric = Identifiability(sync_on_compute=False)  # rank 0 alone is here
    about = (logits, rows, patches, read & ~patches, marks_of(trace, batch, patches))
    metric.update(*(None if x is None else x.cpu() for x in about))
    return metric


def marks_of(trace: relprop.Trace, batch: Mapping[str, Any], patches: Tensor) -> Tensor | None:
    """Which tokens show a part of the object, bool [B, N], where there are masks [B, H, W]."""
    masks = batch.get("mask")
    if trace.grid is None or masks is None or masks.ndim != 3:
        return None
    if "has_mask" in batch:
        masks = masks * batch["has_mask"][:, None, None]
    shown = F.adaptive_max_pool2d(masks.float(), trace.grid).flatten(1) > 0
    after = patches.shape[1] - trace.prefix - shown.shape[1]
    return F.pad(shown, (trace.prefix, after)).to(patches.device)


def formation_picture(
    watch: Watch,
    trace: relprop.Trace,
    batch: Mapping[str, Any],
    labels: Tensor,
) -> np.ndarray:
    """A row a sample, a map a block: logit of the class in each token less the mean of all."""
    module, rows = watch.module, watch.module.per_row(labels, batch)
    about = {"target": labels, "logits": module.logits(trace, batch)}
    names = [module.task.class_names[label] for label in labels.tolist()]
    explained, captions = [], []
    for block in range(trace.depth):
        found = explanation_of(trace, trace.projected(rows, block), rows)
        explained.append(module.by_source(batch, replace(found, **about)))
        captions.append([Caption(f"block {block + 1}", f"class {name}") for name in names])
    ((name, modality),) = module.sources.items()
    heading = f"Where is the class in each block? {watch.watched}, epoch {watch.epoch}"
    of_source = [x[name] for x in explained]
    return modality.samples_picture(batch, of_source, captions, heading, signed=True)
