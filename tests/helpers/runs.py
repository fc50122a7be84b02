"""Small experiments for tests, and what they leave behind."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from lightning_modules.protocols import Progress

EPOCHS = 3
TRAINER = [
    f"trainer.max_epochs={EPOCHS}",
    "trainer.enable_progress_bar=false",
    "trainer.enable_model_summary=false",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
]
DIGITS = [
    *TRAINER,
    "--config=configs/vit_digits.yaml",
    "model.model_options={patch_size: 4, embed_dim: 32, depth: 2, num_heads: 2, "
    "proj_drop_rate: 0.1, drop_path_rate: 0.1}",
    "data.batch_size=32",
    "data.train_size=96",
    "data.val_size=40",
    "data.test_size=40",
    "data.pairs_size=10",
    "tracker.samples=6",
]
REVIEWS = [
    *TRAINER,
    "--config=configs/bert_reviews.yaml",
    "model.config.hidden_size=16",
    "model.config.num_hidden_layers=2",
    "model.config.hidden_dropout_prob=0.1",
    "data.train_size=96",
    "data.val_size=40",
    "data.test_size=40",
    "data.contrast_size=10",
    "data.vocab_size=300",
    "tracker.samples=8",
]
GRAPHS = [
    *TRAINER,
    "--config=configs/graph_edges.yaml",
    "model.width=16",
    "model.layers=MSPS",
    "model.dropout=0.1",
    "data.train_size=96",
    "data.val_size=40",
    "data.test_size=40",
    "tracker.samples=6",
]
ONE_EPOCH = ("trainer.max_epochs=1", "tracker=null")
EXPERIMENTS = {"digits": DIGITS, "reviews": REVIEWS, "graphs": GRAPHS}


def run(run_dir: Path, *overrides: str, experiment: str = "digits") -> Path:
    train.main([*EXPERIMENTS[experiment], f"run_dir={run_dir}", *overrides])
    return run_dir


def load(run_dir: Path, name: str = "last") -> dict:
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)


def rows(run_dir: Path) -> list[dict]:
    """metrics.csv, less the column that is a time."""
    with open(run_dir / "metrics.csv") as file:
        return [
            {k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)
        ]


def curve(run_dir: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run_dir)).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def assert_identical(a, b, path="") -> None:
    """Equal to the bit, all the way down."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_identical(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_identical(x, y, f"{path}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def assert_same_end(run_dir: Path, undisturbed: Path, monitor: str = "accuracy") -> None:
    """Weights, optimiser, schedule, table, pictures, curves and test metrics, to the bit."""
    for name in ("last", "best"):
        ours, theirs = load(run_dir, name), load(undisturbed, name)
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
            assert_identical(ours[part], theirs[part], part)
    assert rows(run_dir) == rows(undisturbed)
    for picture in (undisturbed / "explanations").iterdir():
        resumed = run_dir / "explanations" / picture.name
        assert resumed.read_bytes() == picture.read_bytes(), picture.name
    for tag in (f"val/{monitor}", "relevance/drift", "train/loss"):
        assert curve(run_dir, tag) == curve(undisturbed, tag), tag
    a, b = (json.loads((d / "metrics.json").read_text()) for d in (run_dir, undisturbed))
    assert a == b


@contextmanager
def cut_off(monkeypatch, done: int) -> Iterator[None]:
    """Breaks an evaluation off when so many samples are done."""

    class Cut(Exception):
        pass

    def add(self, found, add=Progress.add):
        if self.done == done:
            raise Cut
        add(self, found)

    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(Progress, "add", add)
        yield
