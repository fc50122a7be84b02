"""Runs with untrained classifiers, exported and loaded as the card of the export says."""

import re
from pathlib import Path

import torch
import yaml
from PIL import Image

import train
from lightning_modules.data.images.transforms import make_input_config
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.models.classifier import CLASSIFIERS, Classifier
from tests.helpers.published import photo, scattered

NAMES = ["a cat", "a|dog", "<b>"]
SQUASHED = {"crop_mode": "squash", "crop_pct": 0.9, "interpolation": "bilinear"}


def input_config(**options) -> dict:
    return make_input_config(32, None) | options


def save_run(folder: Path, kind: str, inputs: dict, names=NAMES, **options) -> Path:
    """A run's folder with a classifier that has random weights."""
    torch.manual_seed(0)
    classifier = CLASSIFIERS[kind](names, inputs, **options)
    scattered(classifier.backbone)
    for name, buffer in classifier.backbone.named_buffers():
        if name.endswith(("running_mean", "running_var")):  # as they are after training
            buffer.uniform_(0.5, 1.5)
    save_classifier(folder, classifier)
    return folder


def save_classifier(folder: Path, classifier: Classifier) -> None:
    checkpoint = {
        "state_dict": classifier.state_dict(),
        "hyper_parameters": dict(classifier.hparams),
    }
    classifier.on_save_checkpoint(checkpoint)
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(checkpoint, folder / "checkpoints" / "best.ckpt")
    data = {"kind": "image_folder", "root": str(folder / "secret")}
    model = {"kind": classifier.kind, "weights": str(folder / "secret" / "weights.pth")}
    config = {"task": classifier.task.name, "data": data, "model": model, "run_dir": str(folder)}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def of_run(run: Path) -> Classifier:
    return load_classifier(run / "checkpoints" / "best.ckpt")


def export(run: Path, to: str, *options: str) -> Path:
    folder = run.parent / f"{run.name}-{to}"
    train.main(["export", str(run), "--to", to, str(folder), *options])
    return folder


def loaded(folder: Path, monkeypatch) -> dict:
    """What the commands of the card have made, with a picture beside."""
    card = (folder / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    monkeypatch.chdir(folder.parent)
    photo().save("picture.png")
    made: dict = {}
    exec(code.replace("FOLDER", str(folder)), made)
    return made


def picture(folder: Path) -> Image.Image:
    return Image.open(folder.parent / "picture.png")
