"""Samples for tests, and what loaders make of them."""

import random

import numpy as np
import torch
from PIL import Image

from lightning_modules.data import EpochSampler

SMALL = dict(batch_size=8, train_size=60, val_size=20, test_size=20, contrast_size=10)


def batches(loader, epoch: int = 0) -> list[dict]:
    """What a loader yields in an epoch."""
    if isinstance(loader.sampler, EpochSampler):
        loader.sampler.set_epoch(epoch)
    return list(loader)


def assert_same_batches(left: list[dict], right: list[dict]) -> None:
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)


def random_states() -> tuple:
    """Of the generators that are everybody's."""
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


def save(path, pixels, **options) -> None:
    """Writes an image, or an array of one: uint8 [H, W] or [H, W, 3]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)


def message_of(raises, *parts: object) -> None:
    """The error is one line that has all of the parts and says what is accepted."""
    message = str(raises.value)
    assert "\n" not in message and "accepted: " in message, message
    assert all(str(part) in message for part in parts), message


def item(text: str, label: int = 0, rationale=None, **more) -> dict:
    """A text as data sets of texts hold it."""
    return {"text": text, "label": label, "rationale": rationale, **more}


def spelled(text: str, spans) -> list[str]:
    """What stands in the spans (start, end) of a text."""
    return [text[start:end] for start, end in spans]
