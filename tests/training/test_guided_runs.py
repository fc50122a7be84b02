"""Runs with a loss on maps: beside plain ones, resumed, in two processes, and refused."""

import os
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

import train
from lightning_modules.data.images.digits import DigitScenes
from lightning_modules.data.sampling import epoch_and_index
from lightning_modules.guidance import Guidance
from tests.helpers.processes import finish_two
from tests.helpers.runs import (
    DIGITS,
    EXPERIMENTS,
    ONE_EPOCH,
    assert_identical,
    assert_same_end,
    curve,
    load,
    run,
)
from tests.helpers.samples import save

SMALL = ("data.train_size=60", "data.val_size=8", "data.test_size=8", "data.batch_size=20")
OF_DATA = {
    "digits": ("data.pairs_size=2",),
    "reviews": ("data.contrast_size=2",),
    "graphs": (),
}
STATE = ("state_dict", "optimizer_states", "lr_schedulers", "global_step")


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Trains for an epoch of three steps, once: its folder, and the state of the generators."""
    made = {}

    def ended(experiment: str, *options: str):
        if (experiment, options) not in made:
            folder = tmp_path_factory.mktemp("ended") / "run"
            given = (*SMALL, *OF_DATA[experiment], *ONE_EPOCH, *options)
            run(folder, *given, experiment=experiment)
            drawn = [torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()]
            made[experiment, options] = folder, drawn
        return made[experiment, options]

    return ended


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_without_a_weight_a_run_is_a_plain_one(ended, experiment):
    plain, drawn = ended(experiment)
    found, drawn_there = ended(experiment, "guidance={weight: 0}")
    for part in STATE:
        assert_identical(load(found)[part], load(plain)[part], part)
    assert_identical(drawn_there, drawn)
    with pytest.raises(KeyError, match="guidance_loss"):
        curve(found, "train/guidance_loss")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_loss_of_the_task_is_drawn_as_in_a_plain_run(ended, experiment):
    """With dropout: in the first step, before the weights have parted."""
    plain, drawn = ended(experiment)
    found, drawn_there = ended(experiment, "guidance={}")
    assert curve(found, "train/loss")[0] == curve(plain, "train/loss")[0]
    assert curve(found, "train/loss")[-1] != curve(plain, "train/loss")[-1]
    assert_identical(drawn_there, drawn)
    assert all(value > 0 for _, value in curve(found, "train/guidance_loss"))
    assert all(0 < value < 1 for _, value in curve(found, "train/guidance_share"))


GUIDED = "guidance={warmup: 0.8, every_n_steps: 2, loss: LOSS}"


@pytest.mark.parametrize(("experiment", "loss"), [("digits", "robustvit"), ("reviews", "share")])
def test_a_run_that_was_stopped_within_an_epoch_ends_as_one_that_was_not(
    tmp_path, experiment, loss
):
    """Before a step with a loss on maps, the last but one of the second epoch."""
    given = (*SMALL, *OF_DATA[experiment], GUIDED.replace("LOSS", loss), "tracker.samples=2")
    given += ("trainer.max_epochs=2",)
    undisturbed = run(tmp_path / "undisturbed", *given, experiment=experiment)
    stopped = run(tmp_path / "run", *given, "trainer.max_steps=4", experiment=experiment)
    assert load(stopped)["unfinished_epoch"]
    train.main(["--resume", str(stopped), "trainer.max_steps=-1"])
    assert_same_end(stopped, undisturbed)
    logged = curve(undisturbed, "train/guidance_loss")
    assert curve(stopped, "train/guidance_loss") == logged
    # In step 0 the weight is 0. What is not logged again is logged as it was in the same epoch.
    assert [step for step, _ in logged] == [2, 4, 5] and logged[1][1] == logged[2][1]


def watch(put: Callable, counts: str) -> None:
    """A scene in twelve has a mask; of each process a file of how many count in each step."""
    get, of_samples = DigitScenes.__getitem__, Guidance.of_samples

    def some(self, key):
        has_mask = self.split != "train" or epoch_and_index(key)[1] % 12 == 0
        return get(self, key) | {"has_mask": has_mask}

    def counted(self, *arguments):
        found = of_samples(self, *arguments)
        with open(f"{counts}-{os.environ.get('LOCAL_RANK', '0')}", "a") as file:
            file.write(f"{len(found[0])}\n")
        return found

    put(DigitScenes, "__getitem__", some)
    put(Guidance, "of_samples", counted)


WATCHED = """
import sys
import train
from tests.training.test_guided_runs import watch
watch(setattr, sys.argv[1])
train.main(sys.argv[2:])
"""


def test_two_processes_train_as_one(tmp_path, monkeypatch):
    """Also in steps in which one of them has all the masks."""
    script, one, two = (tmp_path / name for name in ("script.py", "one", "two"))
    script.write_text(WATCHED)
    given = [*SMALL, *OF_DATA["digits"], *ONE_EPOCH, "trainer.max_epochs=3", "guidance={}"]
    given += ["model.model_options.proj_drop_rate=0", "model.model_options.drop_path_rate=0"]
    given += ["trainer.precision=64-true"]
    with monkeypatch.context() as patch:
        watch(patch.setattr, f"{one}-counts")
        run(one, *given)
    given = [*DIGITS, *given, "trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=10"]
    for process in finish_two(script, f"{two}-counts", *given, f"run_dir={two}"):
        assert process.returncode == 0, process.stderr[-2000:]
    weights = [load(run_dir)["state_dict"] for run_dir in (one, two)]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=0, atol=1e-9)
    for tag in ("train/guidance_loss", "train/guidance_share"):
        expected = [(step, pytest.approx(value)) for step, value in curve(one, tag)]
        assert len(expected) > 3 and curve(two, tag) == expected
    counts = [np.loadtxt(f"{two}-counts-{rank}") for rank in (0, 1)]
    assert ((counts[0] == 0) != (counts[1] == 0)).any() and (counts[0] * counts[1]).any()
    assert (counts[0] + counts[1] == np.loadtxt(f"{one}-counts-0")).all()


def test_mixed_precision_trains(tmp_path):
    options = (*SMALL, "data.pairs_size=2", *ONE_EPOCH, "trainer.precision=bf16-mixed")
    found = run(tmp_path / "run", *options, "guidance={}")
    assert len(curve(found, "train/guidance_loss")) == 3


# ------------------------------------------------------------------------------ what is refused


def said(capsys, *arguments: str) -> str:
    """The last of what a command prints that ends with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        train.main(list(arguments))
    assert ended.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


WRONG = {
    "guidance={method: saliency}": "guidance.method is 'saliency', did you mean decoded_saliency?",
    "guidance={weight: -1}": "guidance.weight: ",
    "guidance={weight: .nan}": "guidance.weight: ",
    "guidance={weights: 1}": "guidance.weights: ",
    "guidance={loss: sum}": "guidance.loss is 'sum'; accepted: share, robustvit",
    "guidance={start_layer: 9}": "guidance: start_layer is 9",
    "guidance={method: saliency, weight: 0}": "guidance.method is 'saliency'",
    "model.mixup=0.5": "guidance with model.mixup or model.cutmix",
    "model.freeze_backbone=true": "guidance with model.freeze_backbone",
    "trainer.precision=bf16-true": "guidance with trainer.precision=bf16-true",
}


@pytest.mark.parametrize("option", WRONG)
def test_what_is_wrong_is_told_before_training(option, tmp_path, capsys):
    given = [*DIGITS, *SMALL, "data.pairs_size=2", *ONE_EPOCH, f"run_dir={tmp_path / 'run'}"]
    message = said(capsys, *given, *["guidance={}"] * ("guidance" not in option), option)
    assert WRONG[option] in message and "accepted: " in message
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_windows_of_texts_are_refused(tmp_path, capsys):
    given = [*EXPERIMENTS["reviews"], *SMALL, *ONE_EPOCH, f"run_dir={tmp_path / 'run'}"]
    message = said(capsys, *given, "guidance={}", "data.max_length=16", "data.overlap=4")
    assert "guidance with data.overlap" in message


def test_a_folder_without_masks_of_train_is_refused(tmp_path, capsys):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            picture = np.zeros((32, 32, 3), np.uint8)
            save(tmp_path / "data" / split / name / "0.png", picture)
    given = [*DIGITS[: DIGITS.index("--config=configs/vit_digits.yaml")]]
    given += ["--config=configs/deit_image_folder.yaml", "model.pretrained=false"]
    given += [f"data.root={tmp_path / 'data'}", f"run_dir={tmp_path / 'run'}", "guidance={}"]
    message = said(capsys, *given)
    assert "guidance: the training samples have no masks; accepted: digits" in message


def test_a_gradient_that_is_no_number_names_the_weight_of_guidance(tmp_path, monkeypatch, capsys):
    def poisoned(self, module, batch, logits):
        return logits.sum() * torch.nan

    monkeypatch.setattr("lightning_modules.guidance.Guidance.__call__", poisoned)
    given = [*DIGITS, *SMALL, "data.pairs_size=2", *ONE_EPOCH, f"run_dir={tmp_path / 'run'}"]
    message = said(capsys, *given, "guidance={}")
    assert "Accepted: a lower guidance.weight, a lower model.lr" in message
