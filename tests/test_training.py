"""train.py from the outside: runs, resumes, and what they leave behind."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning import Callback
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from lightning_modules import ViTClassifier

ROOT = Path(__file__).parents[1]
EPOCHS = 3
SMALL = [
    f"trainer.max_epochs={EPOCHS}",
    "trainer.enable_progress_bar=false",
    "trainer.enable_model_summary=false",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "model.model_options={patch_size: 4, embed_dim: 32, depth: 2, num_heads: 2, "
    "proj_drop_rate: 0.1, drop_path_rate: 0.1}",
    "data.batch_size=32",
    "data.train_size=96",
    "data.val_size=40",
    "data.test_size=40",
    "data.pairs_size=10",
    "tracker.samples=6",
]


def run(run_dir: Path, *overrides: str) -> Path:
    train.main([*SMALL, f"run_dir={run_dir}", *overrides])
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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def stop_in_epoch(monkeypatch):
    """Ends training as Ctrl-C does, in the middle of an epoch."""

    class Stop(Callback):
        def __init__(self, epoch):
            self.epoch = epoch

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.current_epoch == self.epoch and batch_idx == 1:
                raise KeyboardInterrupt

    def stop(epoch):
        original = train.callbacks
        monkeypatch.setattr(train, "callbacks", lambda config: [Stop(epoch), *original(config)])
        return lambda: monkeypatch.setattr(train, "callbacks", original)

    return stop


def test_a_run_leaves_what_the_readme_says(undisturbed):
    for name in ("config.yaml", "metrics.csv", "metrics.json", "checkpoints/best.ckpt"):
        assert (undisturbed / name).is_file()
    for epoch in range(EPOCHS):
        picture = Image.open(undisturbed / "explanations" / f"epoch={epoch:03d}.png")
        assert min(picture.size) > 300
    assert 0 <= json.loads((undisturbed / "metrics.json").read_text())["test/accuracy"] <= 1
    assert len(rows(undisturbed)) == EPOCHS
    assert not list(undisturbed.rglob("*.partial"))


def test_tensorboard_has_curves_and_pictures(undisturbed):
    events = EventAccumulator(str(undisturbed)).Reload()
    assert {"explanations/probes", "explanations/pairs"} <= set(events.Tags()["images"])
    for name in ("concentration", "drift", "mIoU", "mAP", "pixel_accuracy", "class_specificity"):
        expected = EPOCHS - (name == "drift")
        assert len(curve(undisturbed, f"relevance/{name}")) == expected, name
    assert len(curve(undisturbed, "val/accuracy")) == EPOCHS


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_resumed_run_is_bit_identical(undisturbed, tmp_path, stop_in_epoch, epoch):
    go_on = stop_in_epoch(epoch)
    with pytest.raises(SystemExit):
        run(tmp_path / "run")
    go_on()
    train.main(["--resume", str(tmp_path / "run")])

    for name in ("last", "best"):
        ours, theirs = load(tmp_path / "run", name), load(undisturbed, name)
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
            assert_identical(ours[part], theirs[part], part)
    assert rows(tmp_path / "run") == rows(undisturbed)
    for picture in (undisturbed / "explanations").iterdir():
        resumed = tmp_path / "run" / "explanations" / picture.name
        assert resumed.read_bytes() == picture.read_bytes(), picture.name
    for tag in ("val/accuracy", "relevance/drift", "train/loss"):
        assert curve(tmp_path / "run", tag) == curve(undisturbed, tag), tag
    a, b = (json.loads((d / "metrics.json").read_text()) for d in (tmp_path / "run", undisturbed))
    assert a == b


def test_the_tracker_does_not_touch_training(undisturbed, tmp_path):
    without = run(tmp_path / "run", "tracker=null")
    assert_identical(load(without)["state_dict"], load(undisturbed)["state_dict"])
    assert_identical(load(without)["optimizer_states"], load(undisturbed)["optimizer_states"])


def test_probes_are_chosen_once_and_kept(undisturbed):
    tracker = next(v for k, v in load(undisturbed)["callbacks"].items() if "Tracker" in k)
    assert len(set(tracker["probes"])) == 6
    assert tracker["last_maps"].shape == (6, 64)


def test_a_checkpoint_knows_its_classes_and_pictures(undisturbed):
    model = ViTClassifier.load_from_checkpoint(
        undisturbed / "checkpoints" / "best.ckpt", weights_only=True
    )
    assert model.hparams.class_names == [str(digit) for digit in range(10)]
    assert model.hparams.input_config["input_size"] == [3, 32, 32]
    assert load(undisturbed)["kind"] == "vit"
    batch = {"image": torch.zeros(2, 3, 32, 32)}
    assert model.explain(batch, target=3).heatmap(32).shape == (2, 32, 32)


def test_a_kill_while_saving_leaves_a_checkpoint_that_loads(tmp_path):
    """SIGKILL when half of the second epoch's checkpoint is on the disk."""
    script = f"""
import os, signal, sys, torch
import train
saved, save = 0, torch.save
def kill_half_way(checkpoint, file):
    global saved
    saved += 1
    if saved <= 3:  # best and last of epoch 0, then one more
        return save(checkpoint, file)
    file.write(b"PK" * 1000); file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = kill_half_way
train.main({[*SMALL, f"run_dir={tmp_path / 'run'}", "tracker=null"]!r})
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True)
    assert ended.returncode == -9, ended.stderr.decode()[-2000:]
    for checkpoint in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        assert torch.load(checkpoint, weights_only=True)["state_dict"]
    train.main(["--resume", str(tmp_path / "run")])
    assert load(tmp_path / "run")["epoch"] == EPOCHS - 1


# --------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--config", "nowhere.yaml"], ["nowhere.yaml", "vit_digits.yaml"]),
        (["--resume", "nowhere"], ["nowhere", "config.yaml"]),
        (["modle.lr=1"], ["modle", "model"]),
        (["model.lr=fast"], ["model.lr", "fast", "float"]),
        (["model.name=vit_tiny_patch16_22"], ["vit_tiny_patch16_22", "vit_tiny_patch16_224"]),
        (["model.weights=nowhere.pth"], ["model.weights", "nowhere.pth"]),
        (["model.model_options={depht: 2}"], ["depht"]),
        (["data.kind=digit"], ["digit", "digits", "image_folder"]),
        (["tracker.method=magic"], ["magic", "transformer_attribution"]),
        (["tracker.start_layer=9"], ["start_layer", "9", "0 to 1"]),
        (["trainer.max_epoch=1"], ["max_epoch", "max_epochs"]),
        (["trainer.precision=17"], ["17"]),
        (["--frobnicate"], ["--frobnicate"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, named, tmp_path, capsys):
    run_dir = tmp_path / "run"
    overrides = [] if "--resume" in arguments else [*SMALL, f"run_dir={run_dir}"]
    with pytest.raises(SystemExit) as exit_:
        train.main([*overrides, *arguments])
    assert exit_.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("train.py: ")
    for word in named:
        assert word in message


def test_a_new_run_does_not_write_into_an_old_one(undisturbed, capsys):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    with pytest.raises(SystemExit) as exit_:
        run(undisturbed)
    assert exit_.value.code == 2
    assert "--resume" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before


def test_the_config_can_be_printed_complete(capsys):
    train.main(["--print-config", "model.lr=0.5"])
    printed = capsys.readouterr().out
    assert "lr: 0.5" in printed and "layer_decay: 1.0" in printed and "every_n_epochs: 1" in printed


def test_two_processes_train_and_track(tmp_path):
    """Rank 0 explains while the other waits: neither may hang in a collective of its own."""
    arguments = [*SMALL, "trainer.devices=2", "trainer.strategy=ddp", f"run_dir={tmp_path / 'run'}"]
    process = subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, errors.decode()[-2000:]
    assert len(rows(tmp_path / "run")) == EPOCHS
    assert len(curve(tmp_path / "run", "relevance/class_specificity")) == EPOCHS
