"""What runs beside training, and leaves it as it is."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn


@contextmanager
def beside_training(module: nn.Module, seed: int) -> Iterator[None]:
    """What runs within has random numbers of its own, and leaves the module as it was.

    Buffers, counters, caches and other attributes are afterwards what they were before, and what
    the module logs goes nowhere. Parameters are left alone.
    """
    with isolate_rng(), untouched(module):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        for part in module.modules():
            if isinstance(part, LightningModule):
                vars(part)["log"] = lambda *args, **options: None
        yield


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """The attributes of a module and of its parts are afterwards as they were before."""
    boxes = [
        box
        for part in module.modules()
        for box in (vars(part), *(x for x in vars(part).values() if isinstance(x, (dict, list))))
    ]
    contents = [dict(box) if isinstance(box, dict) else list(box) for box in boxes]
    tensors = [
        (x, x.detach().clone())
        for content in contents
        for x in (content.values() if isinstance(content, dict) else content)
        if isinstance(x, Tensor) and not isinstance(x, nn.Parameter)
    ]
    try:
        yield
    finally:
        for box, content in zip(boxes, contents, strict=True):
            box.clear()
            box.update(content) if isinstance(box, dict) else box.extend(content)
        with torch.no_grad():
            for x, before in tensors:
                if not torch.equal(x, before):
                    x.copy_(before)
