"""A training step of ViTClassifier against the same timm model in a plain LightningModule.

    python benchmarks/training_step.py [--model deit_tiny_patch16_224] [--batch 8] [--steps 20]

Both are fitted by Lightning on the same batch; steps of the two alternate in one run, so that
whatever else the machine does falls on both. Printed: the median step of each, and the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time

import lightning
import timm
import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay
from torch.utils.data import DataLoader

from lightning_modules import ViTClassifier


class Plain(lightning.LightningModule):
    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        self.backbone = timm.create_model(name, num_classes=10, img_size=size)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.backbone(batch["image"]), batch["label"])

    def configure_optimizers(self):
        return torch.optim.AdamW(param_groups_weight_decay(self.backbone, 0.05), lr=1e-3)


class Clock(lightning.Callback):
    """Seconds of every training step, from its batch to the end of the optimiser's step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(self, *_) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def fit(model: lightning.LightningModule, batch: dict, steps: int) -> list[float]:
    clock = Clock()
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader([batch] * steps, batch_size=None))
    return clock.seconds[2:]  # the first ones allocate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=7, help="a round")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()

    batch = {
        "image": torch.randn(options.batch, 3, options.size, options.size),
        "label": torch.arange(options.batch) % 10,
    }
    input_config = {"input_size": [3, options.size, options.size]}
    names = [str(i) for i in range(10)]
    seconds = {"plain": [], "ours": []}
    for _ in range(options.rounds):
        plain = Plain(options.model, options.size)
        ours = ViTClassifier(names, input_config, options.model)
        seconds["plain"] += fit(plain, batch, options.steps)
        seconds["ours"] += fit(ours, batch, options.steps)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    for name in seconds:
        low, middle, high = (1e3 * q for q in statistics.quantiles(seconds[name], n=4))
        print(f"{name:6} {middle:7.1f} ms a step  (quartiles {low:.1f}, {high:.1f})")
    print(f"ratio  {median['ours'] / median['plain']:7.3f}")


if __name__ == "__main__":
    main()
