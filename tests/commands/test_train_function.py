"""Training from Python: ``train(config)``, in sweeps and in threads."""

import os
import pickle
import random
import signal
import threading
import warnings
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

import train
from configs.schema import load_config
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.process_state import as_before
from tests.helpers.runs import DIGITS, run

pytestmark = pytest.mark.slow

SHORT = [x for x in DIGITS if not x.startswith("--config")]
SHORT += ["trainer.max_epochs=1", "tracker=null", "trainer.logger=false"][:2]
CONFIG = Path(train.__file__).parent / "configs" / "vit_digits.yaml"


def config(run_dir: Path, *overrides: str):
    return load_config(CONFIG, [*SHORT, f"run_dir={run_dir}", *overrides])


def state() -> tuple:
    """What training changes for the whole process."""
    return (
        random.getstate(),
        str(np.random.get_state()),
        torch.get_rng_state().tolist(),
        os.environ.get("PL_GLOBAL_SEED"),
        list(warnings.filters),
        [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)],
        torch.are_deterministic_algorithms_enabled(),
    )


def test_it_gives_the_metrics_and_does_what_the_command_does(tmp_path):
    found = train.train(config(tmp_path / "function"))
    command = run(tmp_path / "command", *SHORT)
    assert (tmp_path / "function" / "metrics.json").read_text() == (
        command / "metrics.json"
    ).read_text()
    assert found["epoch"] == 0
    assert {"val/accuracy", "test/accuracy", "train/loss"} <= set(found)


def test_a_mapping_is_a_config(tmp_path):
    written = {
        "run_dir": str(tmp_path / "run"),
        "model": {
            "kind": "vit",
            "name": "test_vit",
            "model_options": {"img_size": 24, "patch_size": 4},
        },
        "data": {
            "kind": "digits",
            "train_size": 32,
            "val_size": 8,
            "test_size": 8,
            "pairs_size": 4,
        },
        "tracker": None,
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
    }
    assert "val/accuracy" in train.train(written)


def test_the_process_is_as_before(tmp_path):
    before = state()
    train.train(config(tmp_path / "run", "trainer.deterministic=true"))
    assert state() == before


def test_the_generator_of_apples_gpus_is_put_back(monkeypatch):
    """Where there is one; here something else stands for it."""
    states = [torch.zeros(3, dtype=torch.uint8)]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: states[-1])
    monkeypatch.setattr(torch.mps, "set_rng_state", states.append)
    with as_before():
        states.append(torch.ones(3, dtype=torch.uint8))  # as a training leaves it
    assert torch.equal(states[-1], states[0])


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"model": {"kind": "vit", "lr": "fast"}}, "model.lr"),
        ({"data": {"kind": "letters"}}, "data.kind"),
    ],
)
def test_what_is_wrong_is_an_input_error(tmp_path, wrong, named):
    written = {"run_dir": str(tmp_path / "run"), "data": {"kind": "digits"}} | wrong
    written = {"model": {"kind": "vit", "name": "test_vit"}, **written}
    with pytest.raises(InputError, match=named):
        train.train(written)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_is_an_input_error_and_is_resumed_where_asked(tmp_path):
    train.train(config(tmp_path / "run", "trainer.max_epochs=2", "trainer.max_steps=3"))
    with pytest.raises(InputError, match="holds a run"):
        train.train(config(tmp_path / "run"))
    assert train.train(config(tmp_path / "run", "trainer.max_epochs=2"), resume=True)["test/loss"]


def test_a_sweep_with_a_trial_that_fails(tmp_path):
    before = state()

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        name = "nothing" if trial.number == 1 else "test_vit"
        given = [f"model.lr={rate}"] + ([f"model.name={name}"] if trial.number == 1 else [])
        return train.train(config(tmp_path / f"{trial.number}", *given))["val/accuracy"]

    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=3, catch=InputError)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    assert state() == before


def test_two_trials_at_once(tmp_path):
    before = state()

    def objective(trial: optuna.Trial) -> float:
        assert threading.current_thread() is not threading.main_thread()
        return train.train(config(tmp_path / f"{trial.number}"))["val/accuracy"]

    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=2, n_jobs=2)
    assert all(trial.state.name == "COMPLETE" for trial in study.trials)
    assert all((tmp_path / name / "checkpoints" / "last.ckpt").is_file() for name in "01")
    assert state() == before


def test_a_trial_leaves_nothing(tmp_path):
    assert "train/loss" in train.train(config(tmp_path / "run", "trainer.fast_dev_run=true"))
    assert not (tmp_path / "run").exists()


def test_a_resume_of_another_model_is_refused(tmp_path):
    train.train(config(tmp_path / "run", "trainer.max_steps=1"))
    with pytest.raises(InputError, match="model.name is vit_.*; accepted with --resume"):
        train.train(config(tmp_path / "run", "model.name=vit_small_patch16_224"), resume=True)


def test_a_resume_needs_a_run(tmp_path):
    with pytest.raises(InputError, match="no run is there"):
        train.train(config(tmp_path / "run"), resume=True)


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config(Path("~/run")).run_dir == str(tmp_path / "run")


@pytest.mark.parametrize("given", [None, "vit_digits.yaml", Path("vit_digits.yaml"), [1]])
def test_what_is_no_mapping_is_an_input_error(given):
    with pytest.raises(InputError, match="accepted: a mapping"):
        train.train(given)


def test_a_config_can_be_sent_to_a_process(tmp_path):
    given = config(tmp_path)
    assert pickle.loads(pickle.dumps(given)) == given
