"""Adapters and gradual unfreezing in two processes; averaged adapters, resumed."""

import torch

import train
from tests.helpers.processes import finish_two
from tests.helpers.runs import DIGITS, assert_same_end, load, rows, run

SMALL = ["data.train_size=24", "data.val_size=8", "data.test_size=8", "data.batch_size=8"]
SMALL += ["data.pairs_size=2", "tracker.samples=2", "trainer.max_epochs=2"]
EXACT = ["model.model_options.proj_drop_rate=0", "model.model_options.drop_path_rate=0"]
EXACT += ["trainer.precision=64-true"]


def check_two_processes(tmp_path, strategy: str, *options: str) -> None:
    """On the same global batches they end in the weights and maps of one."""
    one, two = run(tmp_path / "one", *SMALL, *EXACT, *options), tmp_path / "two"
    script = tmp_path / "script.py"
    script.write_text("import sys, train\ntrain.main(sys.argv[1:])\n")
    halves = ["data.batch_size=4", "trainer.devices=2", f"trainer.strategy={strategy}"]
    arguments = [*DIGITS, *SMALL, *EXACT, *options, *halves, f"run_dir={two}"]
    for ended in finish_two(script, *arguments):
        assert ended.returncode == 0, ended.stderr[-2000:]
    ours, theirs = load(one)["state_dict"], load(two)["state_dict"]
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], atol=1e-9), name
    for row, other in zip(rows(one), rows(two), strict=True):
        assert row["relevance/concentration"] == other["relevance/concentration"]


def test_two_processes_train_adapters_as_one(tmp_path):
    base = run(tmp_path / "base", *SMALL, "trainer.max_epochs=1", "tracker=null")
    lora = "model.lora={rank: 2, save: adapters}"
    check_two_processes(tmp_path, "ddp", lora, f"model.weights={base}")


def test_two_processes_unfreeze_as_one(tmp_path):
    strategy = "ddp_find_unused_parameters_true"
    check_two_processes(tmp_path, strategy, "callbacks={GradualUnfreezing: {}}")


def test_averaged_adapters_are_resumed_without_their_base(tmp_path):
    base = run(tmp_path / "base", *SMALL, "trainer.max_epochs=1", "tracker=null")
    options = ["model.lora={rank: 2, dropout: 0.1, save: adapters}", f"model.weights={base}"]
    options += [*SMALL, "callbacks={EMAWeightAveraging: {decay: 0.5}}"]
    whole = run(tmp_path / "whole", *options)
    stopped = run(tmp_path / "stopped", *options, "trainer.max_steps=4")
    train.main(["--resume", str(stopped), "trainer.max_steps=-1"])
    assert_same_end(stopped, whole)
    assert len(load(whole)["current_model_state"]) == len(load(whole)["state_dict"])
