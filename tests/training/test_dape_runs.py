"""Runs with an adapted position bias: tested at several lengths, resumed, tracked, explained."""

import json
from pathlib import Path

import pytest
import torch

import explain
import train
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.utils.checkpoint_files import find_checkpoint
from tests.helpers.runs import TRAINER, assert_same_end, load

OPTIONS = [
    *TRAINER,
    "--config=configs/bert_dape.yaml",
    "model.config.hidden_size=16",
    "model.config.num_hidden_layers=2",
    "model.config.attention_probs_dropout_prob=0.1",
    "data.train_size=64",
    "data.val_size=16",
    "data.test_size=16",
    "data.contrast_size=4",
    "data.vocab_size=300",
    "tracker.samples=4",
    "trainer.max_epochs=2",
]


def run(folder: Path, *options: str) -> Path:
    train.main([*OPTIONS, f"run_dir={folder}", *options])
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("dape") / "run")


def test_a_run_is_tested_at_each_length_and_tracked(undisturbed):
    metrics = json.loads((undisturbed / "metrics.json").read_text())
    for prefix in ("test", "test/2x", "test/4x"):
        assert 0 <= metrics[f"{prefix}/accuracy"] <= 1
    assert len({metrics[f"{prefix}/loss"] for prefix in ("test", "test/2x", "test/4x")}) == 3
    assert (undisturbed / "explanations" / "epoch=001.png").is_file()
    weights = load(undisturbed)["state_dict"]
    assert not weights["backbone.bert.embeddings.position_embeddings.weight"].any()
    assert weights["backbone.bert.encoder.layer.0.attention.self.dape.bias.p"].std() > 0


def test_a_run_that_was_stopped_within_an_epoch_ends_as_one_that_was_not(undisturbed, tmp_path):
    stopped = run(tmp_path / "run", "trainer.max_steps=3")
    assert load(stopped)["unfinished_epoch"]
    train.main(["--resume", str(stopped), "trainer.max_steps=-1"])
    assert_same_end(stopped, undisturbed)


def test_it_is_explained_from_its_checkpoint(undisturbed, tmp_path):
    given = ["--checkpoint", str(undisturbed), "--text", "I was never bored by the plot."]
    explain.main([*given, "--output", str(tmp_path / "out")])
    assert list((tmp_path / "out").rglob("*.png"))


def test_weights_are_exported_and_a_folder_for_transformers_is_not(undisturbed, tmp_path, capsys):
    checkpoint = str(undisturbed)
    with pytest.raises(SystemExit) as exit_:
        train.main(["export", checkpoint, str(tmp_path / "hf"), "--to", "hf"])
    assert exit_.value.code == 2 and not (tmp_path / "hf").exists()
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.endswith("accepted: --to safetensors")
    train.main(["export", checkpoint, str(tmp_path / "weights"), "--to", "safetensors"])
    weights = tmp_path / "weights" / "model.safetensors"
    old = load_classifier(find_checkpoint(undisturbed)).eval()
    given = [f"model.weights={weights}", f"data.tokenizer={undisturbed}", "trainer.max_epochs=1"]
    run(tmp_path / "again", *given, "model.lr=0.0", "tracker=null")
    new = load_classifier(find_checkpoint(tmp_path / "again")).eval()
    batch = old.prepare(["I was never bored by the plot."])
    torch.testing.assert_close(new(batch), old(batch))
