"""The image processor that lies beside a model of Hugging Face's, in timm's words.

The processor itself makes the pixels. Its settings say which part of a picture it keeps, and what
they are taken for is compared with what it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, BaseImageProcessor, TimmWrapperImageProcessor

from lightning_modules.data.images.transforms import INPUT_KEYS, make_eval_transform
from lightning_modules.utils.errors import as_input_error
from lightning_modules.utils.hub import locate

TRIED = (360, 270)  # width and height of the pictures that a processor is tried with
CLOSE = 0.02  # of the range of a pixel, in which two ways to resize agree
NO_CROP_FROM = 384  # pixels: ConvNeXt's processor squashes pictures to such a size or more
PREPARED = "one that resizes pictures, crops their centre or nothing, and normalises them"


def is_of_hugging_face(name: str) -> bool:
    """Whether a name of ``data.transforms_of`` is a hub id or a folder; else it is timm's."""
    return not timm.is_model(name) and ("/" in name or Path(name).is_dir())


def processed_config(name: str, image_size: int | None) -> dict[str, Any]:
    """What the image processor of a hub id or folder does, as an ``input_config``.

    ``image_size``: height and width of the inputs; None: those that it makes.

    Raises:
        InputError: as of :func:`own_processor`.
    """
    given = f"data.transforms_of {name}"
    accepted = "a model of timm, or the hub id or folder of a model with its image processor"
    with as_input_error(given, accepted):
        source = locate(name)
    _, config = own_processor(given, source, accepted)
    return config if image_size is None else config | {"input_size": [3, image_size, image_size]}


def own_processor(
    given: str, source: str, accepted: str
) -> tuple[BaseImageProcessor, dict[str, Any]]:
    """The image processor of a hub id or folder, and what it does as an ``input_config``.

    Raises:
        InputError: there is none, or it does not do what its settings say.
    """
    with as_input_error(f"{given}: no image processor can be read there", accepted):
        processor = AutoImageProcessor.from_pretrained(source)
    called = f"{given}: its {type(processor).__name__}"
    with as_input_error(f"{called} is not understood", PREPARED):
        config = input_config_of(processor)
        transform = make_eval_transform(config)
        for picture in ramps():
            theirs, ours = pixels(processor, [picture]), transform(picture)[None]
            std = torch.tensor(config["std"])[:, None, None]
            if ((theirs - ours) * std).abs().max() > CLOSE:
                raise ValueError("what it keeps of a picture is not what its settings say")
    return processor, config


def pixels(processor: BaseImageProcessor, pictures: Sequence[Image.Image]) -> Tensor:
    """What a processor makes of RGB pictures, [B, 3, H, W]."""
    return processor(images=list(pictures), return_tensors="pt")["pixel_values"]


def ramps() -> list[Image.Image]:
    """Two pictures whose grey is the place, from left to right and from top to bottom."""
    width, height = TRIED
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return [Image.fromarray(grey.astype(np.uint8)).convert("RGB") for grey in (x, y)]


def input_config_of(processor: BaseImageProcessor) -> dict[str, Any]:
    """In timm's words, what a processor does; mean, std and size as they come out of it."""
    if isinstance(processor, TimmWrapperImageProcessor):
        of_timm = processor.data_config
        return {x: list(y) if isinstance(y := of_timm[x], tuple) else y for x in INPUT_KEYS}
    black, white = (
        pixels(processor, [Image.new("RGB", TRIED, color)])[0].double()
        for color in ("black", "white")
    )
    low, high = (x.flatten(1).median(dim=1).values for x in (black, white))
    height, width = black.shape[-2:]
    crop_pct, crop_mode = crop_of(processor, height, width)
    return {
        "input_size": [3, height, width],
        "mean": [round(x, 6) for x in (-low / (high - low)).tolist()],
        "std": [round(x, 6) for x in (1 / (high - low)).tolist()],
        "interpolation": Image.Resampling(int(processor.resample)).name.lower(),
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
    }


def crop_of(processor: BaseImageProcessor, height: int, width: int) -> tuple[float, str]:
    """The share of the resized picture that is kept, and timm's name of how it is resized."""
    size = dict(processor.size)
    shortest = size.get("shortest_edge")
    if shortest is None:
        return height / size["height"], "squash"
    crop_pct = getattr(processor, "crop_pct", None)
    if crop_pct is not None:  # ConvNeXt's
        return (1.0, "squash") if shortest >= NO_CROP_FROM else (crop_pct, "center")
    if not getattr(processor, "do_center_crop", False):  # ViLT's: whole, in shapes of their own
        return 1.0, "squash"
    return height / shortest, "center"
