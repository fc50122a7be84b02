"""Few-shot runs: tested on other classes, resumed to the bit, in two processes, explained."""

import json
from pathlib import Path

import pytest
import torch
from torchvision.utils import save_image

import explain
import train
from lightning_modules.data import DigitEpisodesDataModule
from lightning_modules.data.images.digits import MEAN, STD
from tests.helpers.processes import finish_two
from tests.helpers.runs import TRAINER, assert_same_end, load, rows

OPTIONS = [
    *TRAINER,
    "--config=configs/few_shot_digits.yaml",
    "trainer.max_epochs=2",
    "model.model_options={patch_size: 8, embed_dim: 16, depth: 2, num_heads: 2}",
    "data.shot=2",
    "data.queries=3",
    "data.train_episodes=8",
    "data.val_episodes=4",
    "data.test_episodes=4",
]
HEADS = pytest.mark.parametrize("undisturbed", ["cross", "prototype"], indirect=True)


def run(folder: Path, *options: str) -> Path:
    train.main([*OPTIONS, f"run_dir={folder}", *options])
    return folder


@pytest.fixture(scope="module")
def undisturbed(request, tmp_path_factory) -> Path:
    head = getattr(request, "param", "cross")
    dropout = "model.model_options.proj_drop_rate=0.1"
    return run(tmp_path_factory.mktemp("few_shot") / "run", f"model.head={head}", dropout)


@HEADS
def test_a_run_is_tested_in_the_mean_of_episodes_and_tracked(undisturbed):
    metrics = json.loads((undisturbed / "metrics.json").read_text())
    assert metrics["test/episode_accuracy"] == pytest.approx(metrics["test/accuracy"])
    assert metrics["test/episode_accuracy_ci95"] >= 0
    assert (undisturbed / "explanations" / "epoch=001.png").is_file()
    assert not any("class" in name for name in rows(undisturbed)[0])


@HEADS
def test_a_run_that_was_stopped_within_an_epoch_ends_as_one_that_was_not(undisturbed, tmp_path):
    head = load(undisturbed)["hyper_parameters"]["head"]
    dropout = "model.model_options.proj_drop_rate=0.1"
    stopped = run(tmp_path / "run", "trainer.max_steps=11", f"model.head={head}", dropout)
    assert load(stopped)["unfinished_epoch"]
    train.main(["--resume", str(stopped), "trainer.max_steps=-1"])
    assert_same_end(stopped, undisturbed)


def test_a_resume_keeps_head_and_episodes(undisturbed, capsys):
    for option, told in {
        "model.head=prototype": "model.head is prototype; accepted with --resume: cross",
        "data.shot=3": "the data's episode is",
        "data.way=2": "the classes are not those of",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            train.main(["--resume", str(undisturbed), "trainer.max_epochs=3", option])
        assert told in capsys.readouterr().err


def test_two_processes_with_an_episode_each_train_as_one_with_two(tmp_path):
    exact = [*OPTIONS, "trainer.precision=64-true", "tracker=null"]
    one, two = tmp_path / "one", tmp_path / "two"
    train.main([*exact, f"run_dir={one}", "data.batch_size=2"])
    ddp = ["trainer.devices=2", "trainer.strategy=ddp", f"run_dir={two}"]
    for process in finish_two("train.py", *exact, *ddp):
        assert process.returncode == 0, process.stderr[-2000:]
    for name, x in load(one)["state_dict"].items():
        torch.testing.assert_close(load(two)["state_dict"][name], x, rtol=1e-9, atol=1e-12)
    found, expected = (json.loads((x / "metrics.json").read_text()) for x in (two, one))
    assert found == {name: pytest.approx(value) for name, value in expected.items()}


def test_it_is_explained_from_its_checkpoint_by_a_support(undisturbed, tmp_path, capsys):
    episode = DigitEpisodesDataModule(way=3, shot=2, queries=1, test_classes=[7, 8, 9])
    sample, support = episode.test_dataset[0], tmp_path / "support"
    names = [episode.test_dataset.pool.class_names[i] for i in sample["classes"]]
    save(sample["image"][0], tmp_path / names[0] / "query.png")
    for name, pictures in zip(names, sample["support"], strict=True):
        for number, picture in enumerate(pictures):
            save(picture, support / name / f"{number}.png")
    given = ["--checkpoint", str(undisturbed), "--input", str(tmp_path / names[0])]
    with pytest.raises(SystemExit, match="2"):
        explain.main(given)
    assert "--support FOLDER, with two folders or more" in capsys.readouterr().err
    out = tmp_path / "out"
    asked = ["--support", str(support), "--target", "all", "--format", "png,html,json,npz"]
    explain.main([*given, *asked, "--output", str(out)])
    explained = json.loads((out / "explanations.json").read_text())
    assert explained["class_names"] == sorted(names)
    (entry,) = explained["inputs"]
    assert entry["label"] == sorted(names).index(names[0]) and len(entry["probability"]) == 3
    rho = torch.tensor(entry["support"])
    assert rho.shape == (3, 2, 4, 4) and (rho >= 0).all() and rho.flatten(1).any(dim=1).all()
    assert len(list(out.glob("*.png"))) == 1
    page = (out / "explanations.html").read_text()
    assert "MAKERS.compared" in page and '"shown":"compared"' in page


def save(picture: torch.Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(picture * STD + MEAN, path)
