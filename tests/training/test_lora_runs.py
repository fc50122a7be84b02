"""Runs with adapters: resumed, tracked, in two processes, and explained from their checkpoints."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import explain
import train
from tests.helpers.runs import assert_identical, assert_same_end, load, run

SMALL = ("data.train_size=24", "data.val_size=8", "data.test_size=8", "data.batch_size=8")
SMALL += ("data.pairs_size=2", "tracker.samples=2", "trainer.max_epochs=2")
LORA = "{{rank: 2, dropout: 0.1, save: {save}}}"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Three steps an epoch, without adapters."""
    return run(tmp_path_factory.mktemp("base") / "run", *SMALL, "trainer.max_epochs=1")


@pytest.fixture(scope="module")
def adapted(base, tmp_path_factory):
    """Trains with adapters, once for each ``save`` and further options."""
    made = {}

    def adapted(save: str, *options: str) -> Path:
        if (save, options) not in made:
            folder = tmp_path_factory.mktemp("adapted") / "run"
            made[save, options] = run(folder, *adapters(base, save), *options)
        return made[save, options]

    return adapted


def adapters(base: Path, save: str) -> list[str]:
    lora = LORA.format(save=save)
    return [*SMALL, f"model.weights={base}", f"model.lora={lora}"]


def message(capsys, main, *arguments) -> str:
    with pytest.raises(SystemExit) as exit_:
        main([str(x) for x in arguments])
    assert exit_.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("save", ["all", "adapters"])
def test_a_run_that_was_stopped_within_an_epoch_ends_as_one_that_was_not(
    save, base, adapted, tmp_path
):
    stopped = run(tmp_path / "run", *adapters(base, save), "trainer.max_steps=4")
    assert load(stopped)["unfinished_epoch"]
    train.main(["--resume", str(stopped), "trainer.max_steps=-1"])
    assert_same_end(stopped, adapted(save))


def test_the_tracker_and_what_is_saved_do_not_touch_training(adapted):
    plain = load(adapted("all", "tracker=null"))
    tracked, few = load(adapted("all")), load(adapted("adapters"))
    for part in ("state_dict", "optimizer_states"):
        assert_identical(plain[part], tracked[part], part)
    assert_identical(few["optimizer_states"], tracked["optimizer_states"])
    for name, value in few["state_dict"].items():
        assert torch.equal(value, tracked["state_dict"][name]), name


def test_a_checkpoint_of_adapters_is_small_and_names_its_base(base, adapted):
    state = load(adapted("adapters"))
    assert all(".lora_" in name or ".head." in name for name in state["state_dict"])
    assert state["base"]["name"] == f"model.name=vit_tiny_patch16_224, model.weights={base}"
    assert "base" not in load(adapted("all"))


def test_checkpoints_are_explained_and_scored_alike(adapted, tmp_path, capsys):
    tables = []
    for save in ("all", "adapters"):
        checkpoint = str(adapted(save) / "checkpoints" / "best.ckpt")
        output = ["--output", str(tmp_path / save)]
        explain.main(
            ["evaluate", "--checkpoint", checkpoint, "--protocol", "segmentation"]
            + [*output, "--method", "transformer_attribution", "--limit", "4"]
        )
        tables.append((tmp_path / save / "scores.csv").read_text())
    assert tables[0] == tables[1]


@contextmanager
def without(base: Path) -> Iterator[Path]:
    """The base is somewhere else meanwhile."""
    away = base.rename(base.with_name("away"))
    try:
        yield away
    finally:
        shutil.rmtree(base, ignore_errors=True)
        away.rename(base)


def test_the_whole_needs_no_base_and_adapters_say_which_is_missing_or_differs(
    base, adapted, tmp_path, capsys
):
    scored = ["--protocol", "segmentation", "--method", "rollout", "--output", tmp_path / "out"]
    evaluate = ["evaluate", *scored, "--checkpoint"]
    named = f"its base, model.name=vit_tiny_patch16_224, model.weights={base}"
    whole, few = adapted("all", "tracker=null"), adapted("adapters")
    resumed = shutil.copytree(whole, tmp_path / "whole")
    with without(base) as away:
        explain.main([str(x) for x in (*evaluate, whole)])
        train.main(["--resume", str(resumed), "trainer.max_epochs=3"])
        said = message(capsys, explain.main, *evaluate, few)
        assert f"{named}: model.weights is {base}: no such file" in said
        path = shutil.copytree(away, base) / "checkpoints" / "best.ckpt"
        state = torch.load(path, weights_only=True)
        state["state_dict"]["backbone.blocks.0.attn.qkv.weight"] += 0.1
        torch.save(state, path)
        said = message(capsys, explain.main, *evaluate, few)
        assert f"{named}, differs from that of the training; accepted: weights with the" in said
        resume = ["--resume", few, "trainer.max_epochs=3"]
        assert f"{named}, differs" in message(capsys, train.main, *resume)


def test_a_new_run_begins_with_the_merged_weights(adapted, tmp_path):
    weights = {}
    for save in ("all", "adapters"):
        begun = run(
            tmp_path / save,
            *SMALL,
            "tracker=null",
            "model.lr=0.0",
            "trainer.max_epochs=1",
            f"model.weights={adapted(save)}",
        )
        weights[save] = load(begun)["state_dict"]
    assert_identical(weights["all"], weights["adapters"])
    assert not any("lora" in name for name in weights["all"])
    trained = load(adapted("all"), "best")["state_dict"]
    layer = "backbone.blocks.1.attn.qkv"
    b, a = (trained[f"{layer}.lora_{x}.default.weight"] for x in "BA")
    expected = trained[f"{layer}.base_layer.weight"] + b @ a * 16 / 2
    assert torch.allclose(weights["all"][f"{layer}.weight"], expected)


def test_a_resume_with_other_adapters_is_refused(adapted, capsys):
    asked = ["--resume", adapted("all"), "model.lora.rank=4"]
    said = message(capsys, train.main, *asked)
    assert (
        "model.lora is {'rank': 4, 'dropout': 0.1, 'save': 'all'}; accepted with --resume" in said
    )
