"""train.py from the outside: runs, resumes, and what they leave behind."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from lightning_modules import ViTClassifier
from tests.helpers.runs import DIGITS, EPOCHS, curve, load, rows, run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def undisturbed(trained) -> Path:
    return trained()


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
    assert {"explanations/samples", "explanations/pairs"} <= set(events.Tags()["images"])
    for name in ("concentration", "drift", "mIoU", "mAP", "pixel_accuracy", "class_specificity"):
        expected = EPOCHS - (name == "drift")
        assert len(curve(undisturbed, f"relevance/{name}")) == expected, name
    assert len(curve(undisturbed, "val/accuracy")) == EPOCHS


def test_the_watched_samples_are_chosen_once_and_kept(undisturbed):
    tracker = next(v for k, v in load(undisturbed)["callbacks"].items() if "Tracker" in k)
    assert len(set(tracker["samples"])) == 6
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
        (["tracker.protocols=[magic]"], ["magic", "perturbation"]),
        (["tracker.protocols=[rationales]"], ["rationales", "images"]),
        (["tracker.start_layer=9"], ["start_layer", "9", "0 to 1"]),
        (["trainer.max_epoch=1"], ["max_epoch", "max_epochs"]),
        (["trainer.precision=17"], ["17"]),
        (["--frobnicate"], ["--frobnicate"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, named, tmp_path, capsys):
    run_dir = tmp_path / "run"
    overrides = [] if "--resume" in arguments else [*DIGITS, f"run_dir={run_dir}"]
    with pytest.raises(SystemExit) as exit_:
        train.main([*overrides, *arguments])
    assert exit_.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("train.py: ")
    for word in named:
        assert word in message


@pytest.mark.parametrize(
    ("experiment", "protocols", "logged"),
    [
        (
            "digits",
            "[perturbation, segmentation, specificity, sanity]",
            [
                "perturbation/positive_target_auc",
                "segmentation/mIoU",
                "sanity/head_rank_correlation",
            ],
        ),
        (
            "reviews",
            "[rationales, sanity]",
            ["rationales/auprc_auprc", "rationales/f1_macro_f1@20"],
        ),
    ],
)
def test_protocols_are_curves_of_training_and_leave_it_alone(
    trained, tmp_path, experiment, protocols, logged
):
    scored = run(
        tmp_path / "scored",
        f"tracker.protocols={protocols}",
        "tracker.protocols_every_n_epochs=2",
        experiment=experiment,
    )
    for tag in [*logged, "seconds"]:
        assert len(curve(scored, f"protocols/{tag}")) == 2, tag  # epochs 0 and 2
    plain = trained("tracker=null", experiment=experiment)
    weights, without = load(scored)["state_dict"], load(plain)["state_dict"]
    assert all(torch.equal(weights[name], without[name]) for name in weights)


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


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_any_precision_is_tracked(tmp_path, precision):
    run_dir = run(
        tmp_path,
        f"trainer.precision={precision}",
        "trainer.max_epochs=1",
        "tracker.protocols=[perturbation, segmentation, specificity, sanity]",
    )
    (row,) = rows(run_dir)
    assert 0 < float(row["relevance/pixel_accuracy"]) < 1
    assert 0 <= float(row["protocols/perturbation/positive_target_auc"]) <= 1


@pytest.mark.parametrize("resumed", [False, True])
def test_a_trial_leaves_nothing_and_needs_no_place_of_its_own(tmp_path, capsys, resumed):
    run_dir = tmp_path / "run"
    run(run_dir, "trainer.fast_dev_run=true")
    assert not run_dir.exists()
    run(run_dir, "trainer.max_epochs=1", "tracker=null")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    trial = ["--resume", str(run_dir)] if resumed else [*DIGITS, f"run_dir={run_dir}"]
    train.main([*trial, "trainer.fast_dev_run=2"])
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before == after


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    """A shell leaves run_dir=~/run as it is, or not, as it likes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    train.main([*DIGITS, "run_dir=~/run", "trainer.max_epochs=0", "tracker=null"])
    assert (tmp_path / "run" / "config.yaml").is_file()
