"""Runs with a pool, parts or a contrastive loss: resumed, of several processes, refused."""

import pytest
import torch

import train
from tests.commands.test_options import assert_says, told
from tests.helpers.processes import finish_two
from tests.helpers.runs import DIGITS, ONE_EPOCH, assert_identical, curve, load, run
from tests.training.test_processes import EXACT, TWO, assert_ended

PARTS = ("model.parts=true", "model.contrastive=1.0", "model.patch_stride=3")
QUERIES = ("model.pool=attention_per_class", "model.pool_init=1.0", "model.pool_heads=2")
SHORT = ("trainer.max_epochs=2", "tracker=null", "data.train_size=64")


@pytest.mark.parametrize("options", [PARTS, QUERIES], ids=["parts", "queries"])
def test_a_run_that_was_stopped_within_an_epoch_ends_as_one_that_never_was(tmp_path, options):
    undisturbed = load(run(tmp_path / "whole", *SHORT, *options))
    stopped = run(tmp_path / "stopped", *SHORT, *options, "trainer.max_steps=1")
    assert load(stopped)["global_step"] == 1
    train.main(["--resume", str(stopped), "trainer.max_steps=-1"])
    found = load(stopped)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert_identical(found[part], undisturbed[part], part)


def test_a_resume_does_not_make_another_model(tmp_path, capsys):
    stopped = str(run(tmp_path / "run", *SHORT, "model.pool=attention", "trainer.max_steps=1"))
    for option, began in {
        "model.pool_heads=2": "model.pool_heads is 2; accepted with --resume: 1",
        "model.parts=true": "head does not read a class token",
        "model.pool=null": "model.pool is None; accepted with --resume: attention",
        "model.patch_stride=4": "model.patch_stride is 4; accepted with --resume: None",
    }.items():
        assert_says(told(capsys, train.main, ["--resume", stopped, option]), began)


SCRIPT = "import sys, train; train.main(sys.argv[1:])"


def test_pairs_are_of_all_processes(tmp_path):
    """Halves of 16 are the one process's 32, whose pairs are four times as many."""
    options = [*EXACT, *ONE_EPOCH, "model.parts=true", "model.contrastive=1.0", "model.margin=0"]
    one, two = run(tmp_path / "one", *options), tmp_path / "two"
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ours = [*DIGITS, *options, *TWO, "data.batch_size=16", f"run_dir={two}"]
    assert_ended(finish_two(script, *ours))
    expected = curve(one, "train/contrastive_loss")
    assert len(expected) == 3 and min(value for _, value in expected) > 0.01
    found = curve(two, "train/contrastive_loss")
    assert found == [(step, pytest.approx(value, abs=1e-6)) for step, value in expected]
    ours, theirs = (load(x)["state_dict"] for x in (two, one))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "options, said",
    [
        (["model.contrastive=1.0", "data.batch_size=1"],
         "model.contrastive is 1.0, and a batch of 1 has no pairs | data.batch_size of 2 or more"),
        (["model.pool=mean"], 'model.pool: "mean" is not accepted | "attention_per_class"'),
        (["model.pool_heads=0"], "model.pool_heads: 0 is not accepted | of at least 1"),
        (["model.margin=2"], "model.margin: 2 is not accepted | from -1 to 1"),
        (["model.contrastive=1", "model.mixup=0.5"], "model.mixup is 0.5; accepted with it: 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_in_a_line(tmp_path, capsys, options, said):
    arguments = [*DIGITS, *ONE_EPOCH, f"run_dir={tmp_path / 'run'}", *options]
    assert_says(told(capsys, train.main, arguments), said)


def test_a_published_model_has_no_pool(capsys):
    arguments = ["--config=configs/hf_vit_digits.yaml", "model.pool=attention"]
    assert_says(told(capsys, train.main, arguments), "model.pool: unknown key; accepted: kind")
