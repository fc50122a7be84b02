"""What training with this project costs over training without it."""

from __future__ import annotations

import logging
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lightning
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.optim import param_groups_weight_decay
from torch.utils.data import DataLoader
from transformers import BertForSequenceClassification

from benchmarks.measure import progress, seconds, watch_memory
from benchmarks.table import Table
from configs.schema import load_config
from lightning_modules import BertClassifier, ViTClassifier, experiment
from lightning_modules.callbacks import FiniteSteps
from lightning_modules.callbacks.watch import Report, Watch
from lightning_modules.data import DATAMODULES, DataModule
from lightning_modules.models.classifier import Classifier

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


class Turns(lightning.Callback):
    """Takes a step whenever it is told to, and tells how long it took, all hooks included."""

    def __init__(self, pipe) -> None:
        self.pipe, self.started = pipe, time.perf_counter()

    def on_train_batch_start(self, *_) -> None:
        self.pipe.send(time.perf_counter() - self.started)
        self.pipe.recv()
        self.started = time.perf_counter()


def fit(pipe, make: Callable, ours: bool, batch_size: int, steps: int) -> None:
    """Train in a process of its own; says at last by how many bytes its memory grew at most."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    batch, *models = make(batch_size)
    trainer = lightning.Trainer(
        max_steps=steps,
        callbacks=[Turns(pipe), *([FiniteSteps(".", "stop")] if ours else [])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader([batch] * steps, batch_size=None)
    peak = watch_memory()
    trainer.fit(models[ours], loader)
    pipe.send(peak())


def in_turns(make: Callable, batch_size: int, steps: int, what: str) -> tuple[dict, dict]:
    """Seconds of each step and peak bytes of the plain training (twice) and of ours.

    The trainings are processes that take their steps in turns, so that whatever else the machine
    does falls on all of them; plain training beside itself shows what remains of that.
    """
    context, pipes, processes = multiprocessing.get_context("spawn"), {}, []
    for name in ("plain", "plain again", "ours"):
        pipes[name], end = context.Pipe()
        arguments = (end, make, name == "ours", batch_size, steps)
        processes.append(context.Process(target=fit, args=arguments, daemon=True))
        processes[-1].start()
        pipes[name].recv()  # until it stands before its first step
    times = {name: [] for name in pipes}
    order = list(pipes)
    for _ in progress(range(steps - 1), what):
        order.append(order.pop(0))  # nobody always comes after the same other
        for name in order:
            pipes[name].send("go")
            times[name].append(pipes[name].recv())
    for pipe in pipes.values():
        pipe.send("go")
    peaks = {name: pipe.recv() for name, pipe in pipes.items()}
    for process in processes:
        process.join()
    return {name: found[2:] for name, found in times.items()}, peaks  # the first ones allocate


def vision(batch_size: int):
    """A batch, the plain model and ours: DeiT-Tiny."""
    batch = {
        "image": torch.randn(batch_size, 3, 224, 224),
        "label": torch.arange(batch_size) % 10,
    }
    name = "deit_tiny_patch16_224"
    ours = ViTClassifier(CLASSES, {"input_size": [3, 224, 224]}, name)
    return batch, Plain(timm.create_model(name, num_classes=10)), ours


def text(batch_size: int):
    """A batch, the plain model and ours: a BERT of SIZES, 128 tokens."""
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


def steps(table: Table, rounds: int, batch_size: int = 16) -> None:
    """A training step of each classifier over that of the library's model."""
    for label, make in (("ViTClassifier (DeiT-Tiny, 224)", vision), ("BertClassifier", text)):
        times, peaks = in_turns(make, batch_size, 8 * rounds + 3, label)
        table.section(
            f"a step of {label}, batch {batch_size}, over the library's model in Lightning"
        )
        for name, found in times.items():
            memory = (peaks[name], peaks["plain"])
            table.row(name, found, times["plain"], memory, digits=3)


class Epochs(lightning.Callback):
    """Seconds from the first to the last training step of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx: int) -> None:
        if batch_idx == 0:
            self.started = time.perf_counter()

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.is_last_batch:
            self.seconds.append(time.perf_counter() - self.started)


def noise(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.effect_noise((256, 256), 80).convert("RGB").save(folder / f"{i}.jpg")


def tracker(table: Table, rounds: int, pictures: int = 64) -> None:
    """The tracker's share of an epoch of configs/deit_image_folder.yaml, by size of data set."""
    with tempfile.TemporaryDirectory() as folder:
        for i in range(2):
            noise(Path(folder, "train", str(i)), pictures // 2)
            noise(Path(folder, "val", str(i)), 16)
        overrides = [f"data.root={folder}", f"run_dir={folder}/run", "model.pretrained=false"]
        overrides += ["data.batch_size=16", "data.num_workers=0", "trainer.precision=32-true"]
        overrides += ["trainer.max_epochs=2", "trainer.enable_progress_bar=false"]
        overrides += ["trainer.enable_model_summary=false"]
        config = load_config("configs/deit_image_folder.yaml", overrides)
        data, model, trainer = experiment.build(config, None)
        epochs = Epochs()
        trainer.callbacks.append(epochs)
        trainer.fit(model, datamodule=data)
        reports = by_tracked_method(model, data, rounds)
    tracked = trainer.callback_metrics["relevance/seconds"].item()
    each = epochs.seconds[-1] / pictures
    watched = f"{config.tracker.samples} watched samples of DeiT-S"
    table.section(f"the tracker, {watched}, over an epoch's steps")
    for count in (2000, 5000, 50_000, 1_281_167):
        epoch = f"an epoch's steps: {count * each:,.0f} s"
        table.row(f"{count:,} pictures", [tracked], [count * each], notes=epoch, digits=4)
    table.section("a report of 4 watched samples of DeiT-S, over that by the default method")
    for method, times in reports.items():
        table.row(method, times, reports["transformer_attribution"])


def by_tracked_method(
    model: Classifier, data: DataModule, rounds: int, samples: int = 4
) -> dict[str, list[float]]:
    """Seconds of a report of the tracker, pictures drawn, by method."""
    methods = ("transformer_attribution", "generic_attention", "attnlrp")
    runs = {method: partial(report, model, data, method, samples) for method in methods}
    return seconds(runs, rounds, "reports of the tracker")


def report(model: Classifier, data: DataModule, method: str, samples: int) -> Report:
    """What the tracker finds out in one epoch about the first validation samples."""
    return Watch(model, data, {"method": method, "start_layer": 0}, epoch=0).samples(range(samples))
