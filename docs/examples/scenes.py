"""Scenes of two handwritten digits in two colours, words for them, and a loop to train on them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lightning_modules.data.images.digits import TILE, split_sources

COLORS = ("red", "green", "blue")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = ("[pad]", "[start]", "[end]", "a", "and", *COLORS, *DIGITS)
CELLS = 3
SCENE = CELLS * TILE
SOURCES = split_sources(seed=0)


class Scenes(NamedTuple):
    """``pixels`` [B, 3, 24, 24], 0 to 1; of both digits what they are and where, [B, 2]."""

    pixels: Tensor
    digits: Tensor  # 0 to 9
    colors: Tensor  # 0 to 2
    corners: Tensor  # row and column of the top left corner, [B, 2, 2]

    @property
    def boxes(self) -> Tensor:
        """True within the 8x8 pixels of each digit, [B, 2, 24, 24]."""
        side = torch.arange(SCENE)
        inside = (side >= self.corners[..., None]) & (side < self.corners[..., None] + TILE)
        return inside[:, :, 0, :, None] & inside[:, :, 1, None, :]

    def words(self, digit: int) -> Tensor:
        """Ids of the colour and the name of a digit, the first or the second, [B, 2]."""
        return torch.stack(
            [self.colors[:, digit] + ids("red"), self.digits[:, digit] + ids("zero")], 1
        )


def ids(text: str) -> Tensor:
    """The ids of words; of one word a number.

    >>> ids("a red three")
    tensor([ 3,  5, 11])
    """
    found = torch.tensor([WORDS.index(word) for word in text.split()])
    return found if " " in text else found[0]


def scenes(count: int, split: str, seed: int) -> Scenes:
    """Scenes with handwritten digits of one split, ``train`` or ``test``."""
    rng = np.random.default_rng(seed)
    source = SOURCES[split]
    cells = rng.permuted(np.tile(np.arange(CELLS**2), (count, 1)), axis=1)[:, :2]
    corners = torch.from_numpy(np.stack([cells // CELLS, cells % CELLS], -1)) * TILE
    first = rng.integers(len(source.classes), size=count)
    differ = [np.flatnonzero(source.classes != digit) for digit in range(10)]
    second = [rng.choice(differ[digit]) for digit in source.classes[first]]
    chosen = np.stack([first, second], 1)
    colors = torch.from_numpy(rng.permuted(np.tile(np.arange(3), (count, 1)), axis=1)[:, :2])

    pixels = torch.zeros(count, 3, SCENE, SCENE)
    sample, tile = torch.arange(count)[:, None, None], torch.arange(TILE)
    for i in range(2):
        rows, columns = (corners[:, i, :, None] + tile).unbind(1)
        place = (sample, colors[:, i, None, None], rows[:, :, None], columns[:, None])
        pixels[place] = torch.from_numpy(source.ink[chosen[:, i]])
    return Scenes(pixels, torch.from_numpy(source.classes[chosen]), colors, corners)


def train(
    model: nn.Module, loss: Callable[[Scenes], Tensor], steps: int, rate: float = 2e-3
) -> None:
    """Minimise ``loss`` of fresh scenes."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        value = loss(scenes(64, "train", seed=step))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {value.item():.3f}", flush=True)
    model.eval()


def share(heatmaps: Tensor, boxes: Tensor) -> float:
    """Percentage of positive relevance [B, 24, 24] within boxes, the mean of all scenes."""
    positive = heatmaps.clamp(min=0)
    inside = (positive * boxes).sum((1, 2)) / positive.sum((1, 2)).clamp(min=1e-30)
    return 100 * inside.mean().item()
