"""The folder of a run may be moved: no path in it decides anything."""

import shutil
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

import explain
import train
from lightning_modules.callbacks import EpochCheckpoint, MetricsTable
from lightning_modules.data import DigitsDataModule
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.protocols import PROTOCOLS, Progress, evaluate
from lightning_modules.utils.checkpoint_files import find_checkpoint
from lightning_modules.utils.errors import InputError
from tests.helpers.runs import ONE_EPOCH, assert_same_end, cut_off, load, run

ACCURACIES = [0.5, 0.9, 0.7, 0.8, None, 0.95]  # of the epochs; None: without validation


class Learner(LightningModule):
    """Its validation accuracy is the next of a list."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def train_dataloader(self):
        return DataLoader(torch.zeros(2, 1))

    val_dataloader = train_dataloader

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        if ACCURACIES[self.current_epoch] is not None:
            self.log("val/accuracy", ACCURACIES[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def learn(folder: Path, epochs: int, **more) -> None:
    folder.mkdir(exist_ok=True)
    quiet = ("logger", "enable_progress_bar", "enable_model_summary")
    table = MetricsTable(folder)
    checkpoints = [EpochCheckpoint(folder, "best", "val/accuracy"), EpochCheckpoint(folder, "last")]
    options = {"accelerator": "cpu", "max_epochs": epochs, "num_sanity_val_steps": 0}
    trainer = Trainer(**options, **dict.fromkeys(quiet, False), callbacks=[table, *checkpoints])
    trainer.fit(Learner(), weights_only=True, **more)


@pytest.mark.parametrize("stopped_after", [1, 2, 3, 4, 5])
def test_the_best_epoch_stays_the_best_when_the_folder_has_moved(tmp_path, stopped_after):
    learn(tmp_path / "run", stopped_after)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    for epochs, best in ((2, 1), (3, 1), (4, 1), (5, 1), (6, 5)):
        if epochs > stopped_after:
            learn(moved, epochs, ckpt_path=moved / "last.ckpt")
            assert torch.load(moved / "best.ckpt", weights_only=True)["epoch"] == best
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("step", [3, 4])
def test_a_run_that_has_moved_ends_as_one_that_has_not(trained, tmp_path, step):
    run(tmp_path / "run", f"trainer.max_steps={step}")
    moved = shutil.move(tmp_path / "run", tmp_path / "another" / "place")
    train.main(["--resume", str(moved), "trainer.max_steps=-1"])
    assert_same_end(moved, trained())
    assert not (tmp_path / "run").exists()


def test_checkpoints_of_lightnings_own_callback_are_resumed(tmp_path):
    """Their states have its name, and paths of where the run was."""
    run_dir = run(tmp_path / "run", "trainer.max_epochs=2", "tracker=null")
    callbacks = load(run_dir)["callbacks"]
    names = [name for name in callbacks if "Checkpoint" in name]
    assert len(names) == 2 and all(name.startswith("ModelCheckpoint{") for name in names)


@pytest.mark.usefixtures("few_draws")
def test_an_evaluation_goes_on_after_the_run_has_moved(trained, tmp_path, monkeypatch):
    run_dir = shutil.copytree(trained(*ONE_EPOCH), tmp_path / "run")
    command = ["--protocol", "segmentation", "--method", "rollout", "--limit", "12"]
    command += ["data.batch_size=4"]
    explain.main(["evaluate", "--checkpoint", str(run_dir), *command])
    whole = (run_dir / "scores" / "segmentation" / "scores.csv").read_text()

    with cut_off(monkeypatch, done=8):
        explain.main(["evaluate", "--checkpoint", str(run_dir), *command])
    moved = run_dir.rename(tmp_path / "moved")
    explain.main(["evaluate", "--checkpoint", str(moved), *command, "--resume"])
    assert (moved / "scores" / "segmentation" / "scores.csv").read_text() == whole


def test_an_evaluation_does_not_go_on_with_other_weights(trained, tmp_path, monkeypatch, capsys):
    run_dir = shutil.copytree(trained(*ONE_EPOCH), tmp_path / "run")
    command = ["evaluate", "--checkpoint", str(run_dir), "--protocol", "segmentation"]
    command += ["--method", "rollout", "--limit", "8", "data.batch_size=4"]

    with cut_off(monkeypatch, done=4):
        explain.main(command)
    best = run_dir / "checkpoints" / "best.ckpt"
    state = torch.load(best, weights_only=True)
    state["state_dict"]["backbone.head.bias"] += 1
    torch.save(state, best)
    with pytest.raises(SystemExit) as exit_:
        explain.main([*command, "--resume"])
    assert exit_.value.code == 2
    assert "has another weights" in capsys.readouterr().err


def test_an_evaluation_does_not_go_on_with_other_data(trained, capsys):
    module, data = (
        load_classifier(find_checkpoint(trained(*ONE_EPOCH))),
        DigitsDataModule(test_size=8),
    )
    protocol = PROTOCOLS["segmentation"](module, data)
    cut_off = Progress(4, 8, {}, {})
    next(evaluate(protocol, [], {}, progress=cut_off))
    data.test_dataset = DigitsDataModule(test_size=6).test_dataset
    with pytest.raises(InputError, match="has 8 samples, the data now have 6; accepted"):
        next(evaluate(protocol, [], {}, progress=cut_off))
