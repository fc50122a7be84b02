"""From a batch of inputs to results: what ``explain.py`` does between reading and writing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import relprop
from lightning_modules.explanations.inputs import Input
from lightning_modules.explanations.results import Result
from lightning_modules.explanations.targets import Targets
from lightning_modules.modalities import Explained, Modality
from lightning_modules.models.classifier import Classifier
from lightning_modules.utils.errors import InputError

WIDEST = "attnlrp"  # the method that explains most models


@dataclass(frozen=True)
class Failure:
    """An input that could not be explained, and why."""

    name: str
    reason: str


def read_inputs(
    inputs: Sequence[Input], sources: Mapping[str, Modality]
) -> tuple[list[tuple[Input, dict[str, Any]]], list[Failure]]:
    """The inputs with their contents, and those that cannot be read."""
    read, failures = [], []
    for item in inputs:
        try:
            read.append((item, item.read(sources)))
        except (InputError, OSError) as error:
            failures.append(Failure(item.name, str(error)))
    return read, failures


def explain_batch(
    module: Classifier,
    read: Sequence[tuple[Input, dict[str, Any]]],
    targets: Targets,
    methods: Sequence[str],
    options: Mapping[str, Any],
    left_out: dict[str, str] | None,
    against: int | None = None,
) -> Iterator[Result | Failure]:
    """The results of inputs that were read; Failure where their relevance is not finite.

    ``left_out``: takes the methods that refuse the model, but for the last that is left; None:
    none may.
    """
    several = len(module.sources) > 1
    batch = module.prepare([x if several else next(iter(x.values())) for _, x in read])
    trace = module.record(batch)
    logits = module.logits(trace, batch)
    chosen = targets.of(logits)
    maps = {name: {} for name in module.readings}  # of each reading and method, [place][B, ...]
    class_names = list(module.hparams.class_names)
    broken = {}  # why an input cannot be explained
    for i, classes in enumerate(chosen):
        if against in classes:
            broken[i] = (
                f"--against {class_names[against]}: it is the class explained; accepted: another"
            )
            chosen[i] = [int(against == 0)]  # another, which is not shown
    places = [
        torch.tensor([classes[min(place, len(classes) - 1)] for classes in chosen])
        for place in range(max(map(len, chosen)))
    ]
    if against is not None:
        options = {**options, "against": against}
    for method in methods:
        try:
            explained = explain_by(module, trace, batch, places, method, options)
        except InputError as error:
            if left_out is None or len(left_out) == len(methods) - 1:
                raise
            left_out[method] = str(error)
            continue
        for name, of_method in maps.items():
            of_method[method] = [of_place[name].arrays() for of_place in explained]
        for i in not_finite(explained) - set(broken):
            broken[i] = (
                f"{method}: its relevance is not finite, first in {origin(trace, explained)}"
            )
    numbers = logits.float().cpu().numpy()
    for i, (item, contents) in enumerate(read):
        if i in broken:
            yield Failure(item.name, f"{item.name}: {broken[i]}")
            continue
        parts = {}
        for name, modality in module.readings.items():
            relevance = {
                method: np.stack([of_place[i] for of_place in of_method[: len(chosen[i])]])
                for method, of_method in maps[name].items()
            }
            part = modality.part(contents[modality.source], batch, i, relevance)
            parts[name] = part.marked(explained[0][name], i)
        # A folder says that a class is the right one, but not of labels that others are not.
        label = label_of(item, class_names) if module.activation == "softmax" else None
        about = (item.name, class_names, numbers[i], module.activation, chosen[i], label)
        yield Result(*about, parts, against)


def explain_by(
    module: Classifier,
    trace: relprop.Trace,
    batch: Mapping[str, Any],
    places: Sequence[torch.Tensor],
    method: str,
    options: Mapping[str, Any],
) -> list[dict[str, Explained]]:
    """As ``explain_sources``.

    Raises:
        InputError: the method refuses the model; says whether ``WIDEST`` explains it.
    """
    try:
        return module.explain_sources(trace, batch, places, method, **options)
    except relprop.UnsupportedModel as error:
        told = f"--method {method}: {error}"
        if method != WIDEST:
            with suppress(relprop.UnsupportedModel):
                module.explain_sources(trace, batch, places[:1], WIDEST, **options)
                told += f"; --method {WIDEST} explains this model"
        raise InputError(told) from error


def not_finite(explained: Sequence[dict[str, Explained]]) -> set[int]:
    """Places in the batch of inputs whose logits, or one of whose maps, are not finite."""
    masks = [x.not_finite() for of_place in explained for x in of_place.values()]
    return set(torch.stack(masks).any(dim=0).nonzero()[:, 0].tolist())


def origin(trace: relprop.Trace, explained: Sequence[dict[str, Explained]]) -> str:
    """Where in the first of the explanations what is not finite arose."""
    first = next(iter(explained[0].values()))
    return trace.not_finite(first.target[first.sample_of_row]) or "the method itself"


def label_of(item: Input, class_names: Sequence[str]) -> int | None:
    """The true class, where the file lies in a folder with the name of one class."""
    folder = item.path.absolute().parent.name if item.path else None
    return class_names.index(folder) if class_names.count(folder) == 1 else None
