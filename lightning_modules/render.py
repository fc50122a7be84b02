"""What notebooks of version 0.1.0 import; see :mod:`lightning_modules.modalities.images.draw`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lightning_modules.modalities.images import draw
from lightning_modules.modalities.images.draw import overlay, unnormalize
from lightning_modules.tasks import Multiclass, captions_of
from relprop import Explanation

__all__ = ["explanation_picture", "overlay", "unnormalize"]


def explanation_picture(
    images: Tensor,
    explanations: Sequence[Explanation],
    titles: Sequence[str],
    class_names: Sequence[str],
    heading: str,
    labels: Tensor | None = None,
    signed: bool = False,
) -> np.ndarray:
    """That of ``draw``, with captions of ``titles``, with ``{}`` for the class, and ``labels``."""
    captions = captions_of(explanations, titles, Multiclass(class_names), labels)
    return draw.explanation_picture(images, explanations, captions, heading, signed)
