"""What a loss on maps does to decisions, not to maps."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import train
from configs.schema import load_config
from lightning_modules.data import DATAMODULES
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.utils.checkpoint_files import find_checkpoint
from tests.helpers.runs import TRAINER

MARKED = [*TRAINER, "--config=configs/vit_marker.yaml", "tracker=null"]
MARKED += ["data.test_size=600", "data.val_size=10", "data.pairs_size=1"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """375 steps, after which one scene in five is taken for something else with a marker."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    train.main([*MARKED, f"run_dir={folder}"])
    return folder


def changed_by_markers(run_dir: Path) -> float:
    """The share of scenes whose prediction differs between the test sets ``shift`` and ``none``."""
    model = load_classifier(find_checkpoint(run_dir)).eval()
    options = load_config(run_dir / "config.yaml", []).data
    data = DATAMODULES[options.pop("kind")](**options)
    predicted = {}
    for name in ("shift", "none"):
        with torch.no_grad():
            each = [model(x).argmax(dim=1) for x in DataLoader(data.test_sets[name], 200)]
        predicted[name] = torch.cat(each)
    return float((predicted["shift"] != predicted["none"]).float().mean())


def test_decisions_follow_a_marker_half_as_often_at_most(plain, tmp_path):
    """After 60 further steps, beside as many plain ones from the same weights."""
    further = [*MARKED, f"model.weights={plain}", "model.lr=5e-4", "data.train_size=3840"]
    further += ["trainer.max_epochs=1"]
    train.main([*further, f"run_dir={tmp_path / 'further'}"])
    train.main([*further, f"run_dir={tmp_path / 'guided'}", "guidance={}"])
    found = {name: changed_by_markers(tmp_path / name) for name in ("further", "guided")}
    print(f"changed by markers: {changed_by_markers(plain):.3f}, then {found}")
    assert found["guided"] <= 0.5 * found["further"]
    assert found["further"] > 0.05
