"""What runs beside training, and leaves it as it is."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)


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
    """The attributes of a module and of its parts are afterwards as they were before.

    Among them are generators of random numbers, and what lists and dicts hold.
    """
    boxes = [
        box
        for part in module.modules()
        for box in (vars(part), *(x for x in vars(part).values() if isinstance(x, (dict, list))))
    ]
    contents = [dict(box) if isinstance(box, dict) else list(box) for box in boxes]
    values = [x for box in contents for x in (box.values() if isinstance(box, dict) else box)]
    tensors = [
        (x, x.detach().clone())
        for x in values
        if isinstance(x, Tensor) and not isinstance(x, nn.Parameter)
    ]
    restorations = [restoration(x) for x in values if isinstance(x, GENERATORS)]
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
        for restore in restorations:
            restore()


def restoration(generator: Any) -> Callable[[], None]:
    """What puts a generator of random numbers back to where it is now."""
    if isinstance(generator, np.random.Generator):
        of_numpy = generator.bit_generator
        return partial(setattr, of_numpy, "state", of_numpy.state)
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    return partial(generator.set_state, generator.get_state())
