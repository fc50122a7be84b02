"""What a convolution sees of a tensor, patch by patch."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor


def windows(
    places: Tensor, kernel, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups=1
) -> Tensor:
    """The coordinates [dims, C, ..., H, W] that a convolution sees: [dims, patches, k]."""
    for d, length in enumerate(kernel):
        step, pad, apart = (
            x if isinstance(x, (int, str)) else x[min(d, len(x) - 1)]
            for x in (stride, padding, dilation)
        )
        span: int = apart * (length - 1)
        before = pad if isinstance(pad, int) else span // 2 if pad == "same" else 0
        after = span - before if pad == "same" else before
        others = [0, 0] * (len(kernel) - 1)  # those of windows are the last
        places = F.pad(places, (*others, before, after), value=-1)
        places = places.unfold(2 + d, span + 1, step)[..., ::apart]  # type: ignore[arg-type]
    patches = range(2, 2 + len(kernel))
    within = range(2 + len(kernel), places.ndim)
    return places.permute(0, *patches, 1, *within).flatten(1 + len(kernel)).flatten(1, -2)
