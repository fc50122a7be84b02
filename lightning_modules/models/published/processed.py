"""Pictures that the image processor of a model of Hugging Face's prepares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import BaseImageProcessor

from lightning_modules.data.images.processors import TRIED, pixels
from lightning_modules.modalities import Images


class ProcessedImages(Images):
    """``input_config`` as of :func:`lightning_modules.data.images.processors.own_processor`."""

    def __init__(
        self, source: str, input_config: Mapping[str, Any], processor: BaseImageProcessor
    ) -> None:
        super().__init__(source, input_config)
        self.processor = processor

    @cached_property
    def of_one_size(self) -> bool:  # type: ignore[override]
        """Whether upright and lying pictures become inputs of one shape."""
        lying, upright = (Image.new("RGB", size) for size in (TRIED, TRIED[::-1]))
        return pixels(self.processor, [lying]).shape == pixels(self.processor, [upright]).shape

    def batch(self, contents: Sequence[Image.Image]) -> dict[str, Tensor]:
        return {self.source: pixels(self.processor, contents)}
