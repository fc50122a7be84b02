"""What training with this project costs over training without it."""

from __future__ import annotations

import time

import lightning
import timm
import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay
from torch.utils.data import DataLoader
from transformers import BertForSequenceClassification

from benchmarks.measure import milliseconds, print_table, ratios, show
from lightning_modules import BertClassifier, ViTClassifier
from lightning_modules.callbacks import FiniteSteps
from lightning_modules.callbacks.probes import ImageProbes
from lightning_modules.data import DATAMODULES

CLASSES = [str(i) for i in range(10)]
SIZES = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
}


class Plain(lightning.LightningModule):
    """The library's model in the shortest LightningModule that trains it."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.train()

    def training_step(self, batch, batch_idx):
        if "image" in batch:
            logits = self.backbone(batch["image"])
        else:
            names = ("input_ids", "attention_mask")
            logits = self.backbone(**{name: batch[name] for name in names}).logits
        loss = F.cross_entropy(logits, batch["label"])
        self.log("train/loss", loss)
        return loss

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


def fit(model: lightning.LightningModule, batch: dict, steps: int, ours: bool) -> list[float]:
    clock = Clock()
    trainer = lightning.Trainer(
        max_steps=steps,
        callbacks=[clock, *([FiniteSteps(".", "stop")] if ours else [])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader([batch] * steps, batch_size=None))
    return clock.seconds[2:]  # the first ones allocate


def vision(batch_size: int):
    batch = {
        "image": torch.randn(batch_size, 3, 224, 224),
        "label": torch.arange(batch_size) % 10,
    }
    name = "deit_tiny_patch16_224"
    ours = ViTClassifier(CLASSES, {"input_size": [3, 224, 224]}, name)
    return batch, Plain(timm.create_model(name, num_classes=10)), ours


def text(batch_size: int):
    data = DATAMODULES["reviews"](train_size=60, val_size=10, test_size=10, max_length=128)
    ids = torch.randint(10, 60, (batch_size, 128))
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "label": torch.arange(batch_size) % 10,
        "text_of_row": torch.arange(batch_size),
        "text": [""] * batch_size,
    }
    config = {"model_type": "bert", **SIZES}
    ours = BertClassifier(CLASSES, data.input_config, config=config)
    return batch, Plain(BertForSequenceClassification(ours.backbone.config)), ours


def steps(rounds: int, count: int = 6, batch_size: int = 16) -> None:
    """Fitted in turns, on the same batch."""
    rows = []
    for label, make in (("ViTClassifier (DeiT-Tiny, 224)", vision), ("BertClassifier", text)):
        found = {"plain": [], "ours": []}
        for turn in range(rounds):
            batch, plain, ours = make(batch_size)
            both = [("plain", plain), ("ours", ours)]
            for name, model in both if turn % 2 else both[::-1]:
                found[name] += fit(model, batch, count, ours=name == "ours")
        ratio = show(ratios(found["ours"], found["plain"]), 3)
        times = (milliseconds(found["plain"]), milliseconds(found["ours"]))
        rows.append([label, *times, ratio])
    print_table(
        f"a training step, batch {batch_size}, over the library's model in plain Lightning",
        ["classifier", "plain, ms", "ours, ms", "ratio (quartiles)"],
        rows,
    )


class Pictures:
    """As much of a datamodule as the tracker's probes need."""

    class_names, pairs_dataset = CLASSES, None
    input_config = {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.5] * 3}

    def __init__(self, samples: int) -> None:
        noise = torch.randn(samples, 3, 224, 224)
        self.val_dataset = [{"image": x, "label": i % 10} for i, x in enumerate(noise)]


def tracker(samples: int = 32) -> None:
    """The tracker's share of an epoch of configs/deit_image_folder.yaml, by size of data set."""
    data = Pictures(samples)
    module = ViTClassifier(CLASSES, data.input_config, "deit_small_patch16_224")
    probes = ImageProbes(module, data, {"method": "transformer_attribution", "start_layer": 0})
    probes.report(range(samples), 0)
    started = time.perf_counter()
    probes.report(range(samples), 1)
    tracked = time.perf_counter() - started
    batch = {"image": torch.randn(8, 3, 224, 224), "label": torch.arange(8)}
    step = sorted(fit(module, batch, 6, ours=True))[2]
    rows = [
        [f"{images:,}", f"{images / 8 * step:,.0f}", f"{tracked / (images / 8 * step):.3%}"]
        for images in (1000, 4000, 50_000, 1_281_167)
    ]
    print_table(
        f"the tracker: {tracked:.1f} s for {samples} probes; a step of 8 pictures: {step:.2f} s",
        ["training pictures", "an epoch's steps, s", "the tracker over them"],
        rows,
    )
