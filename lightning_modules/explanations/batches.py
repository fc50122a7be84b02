"""From inputs to results, in batches: what ``explain.py`` does between reading and writing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Resize

from lightning_modules.data.images.transforms import make_eval_transform
from lightning_modules.explanations.inputs import Input
from lightning_modules.explanations.results import Result
from lightning_modules.explanations.targets import Targets
from lightning_modules.modalities.texts.explained import Explained, ExplainedTexts
from lightning_modules.models.classifier import Classifier
from lightning_modules.utils.errors import InputError


@dataclass(frozen=True)
class Failure:
    """An input that could not be explained, and why."""

    name: str
    reason: str


def explain_inputs(
    module: Classifier,
    inputs: Sequence[Input],
    targets: Targets,
    methods: Sequence[str],
    options: Mapping[str, Any],
    batch_size: int,
) -> Iterator[Result | Failure]:
    """The result of each input, or why it has none; batch by batch, recorded once each."""
    remaining = iter(inputs)
    while batch := list(islice(remaining, batch_size)):
        read = []
        for item in batch:
            try:
                read.append((item, item.read(module.kind)))
            except (InputError, OSError) as error:
                yield Failure(item.name, str(error))
        if read:
            yield from explain_batch(module, read, targets, methods, options)


def explain_batch(
    module: Classifier,
    read: Sequence[tuple[Input, Image.Image | str]],
    targets: Targets,
    methods: Sequence[str],
    options: Mapping[str, Any],
) -> Iterator[Result | Failure]:
    """The results of inputs that were read; Failure where their relevance is not finite."""
    batch = module.prepare([content for _, content in read])
    trace = module.record(batch)
    logits = module.logits(trace, batch)
    chosen = targets.of(logits)
    most = max(map(len, chosen))
    places = [
        torch.tensor([classes[min(place, len(classes) - 1)] for classes in chosen])
        for place in range(most)
    ]
    maps = {}  # of each method, one for each place in `chosen`: [T] of [B, ...]
    broken = {}  # why an input cannot be explained
    for method in methods:
        explanations = module.explain_classes(trace, batch, places, method, **options)
        maps[method] = [as_array(explained) for explained in explanations]
        for i in rows_not_finite(explanations, logits) - set(broken):
            rows = batch.get("text_of_row", slice(None))
            where = trace.not_finite(places[0].to(logits.device)[rows]) or "the method itself"
            broken[i] = f"{method}: its relevance is not finite, first in {where}"
    numbers = logits.float().cpu().numpy()
    class_names = list(module.hparams.class_names)
    for i, (item, content) in enumerate(read):
        if i in broken:
            yield Failure(item.name, f"{item.name}: {broken[i]}")
            continue
        relevance = {
            method: np.stack([of_class[i] for of_class in of_method[: len(chosen[i])]])
            for method, of_method in maps.items()
        }
        # A folder says that a class is the right one, but not of labels that others are not.
        label = label_of(item, class_names) if module.activation == "softmax" else None
        about = (item.name, class_names, numbers[i], module.activation, chosen[i], label)
        if isinstance(content, str):
            words = batch["words"][i]
            relevance = {method: x[:, : len(words)] for method, x in relevance.items()}
            yield Result(*about, relevance, text=content, words=words)
        else:
            region = seen_region(content.size, module.hparams.input_config)
            yield Result(*about, relevance, picture=content, region=region, size=content.size)


def rows_not_finite(explanations: Sequence[Explained], logits: Tensor) -> set[int]:
    """Places in the batch of inputs whose ``logits``, or a map of one of whose classes, are not."""
    found = (~logits.isfinite()).any(dim=1).nonzero()[:, 0].tolist()
    for explained in explanations:
        rows = (~explained.relevance.isfinite()).any(dim=1).nonzero()[:, 0]
        texts = isinstance(explained, ExplainedTexts)
        found += (explained.text_of_row[rows] if texts else rows).tolist()
    return set(found)


def as_array(explained: Explained) -> np.ndarray:
    """Relevance as of :class:`Result`: [B, rows, columns], or [B, W] with NaN on unseen words.

    Of patches that do not tile the input it is a heatmap, [B, H, W] of the input.
    """
    if isinstance(explained, ExplainedTexts):
        scores = explained.word_scores.masked_fill(~explained.seen, torch.nan)
        return scores.float().cpu().numpy()
    if explained.sides is not None:
        return explained.heatmap(tuple(side.size for side in explained.sides)).float().cpu().numpy()
    return explained.relevance.unflatten(-1, explained.grid).float().cpu().numpy()


def label_of(item: Input, class_names: Sequence[str]) -> int | None:
    """The true class, where the file lies in a folder with the name of one class."""
    folder = item.path.absolute().parent.name if item.path else None
    return class_names.index(folder) if class_names.count(folder) == 1 else None


def seen_region(
    size: tuple[int, int], input_config: Mapping[str, Any]
) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what a model sees of a picture of ``size`` (width, height).

    It is the centre crop, in the picture's own pixels: after the resize it is H / crop_pct high
    or wide, or both where the picture is squashed. The crop of a picture that is too small for it
    lies partly outside.
    """
    resize, crop, *_ = make_eval_transform(dict(input_config)).transforms
    if not (isinstance(resize, Resize) and isinstance(crop, CenterCrop)):
        raise TypeError(f"the evaluation transform begins with {resize} and {crop}")
    width, height = size
    if isinstance(resize.size, int):  # the shorter side's
        scales = (min(size) / resize.size,) * 2
    else:  # the picture was squashed
        scales = height / resize.size[0], width / resize.size[1]
    half_height, half_width = (c * s / 2 for c, s in zip(crop.size, scales, strict=True))
    x, y = width / 2, height / 2
    return x - half_width, y - half_height, x + half_width, y + half_height
