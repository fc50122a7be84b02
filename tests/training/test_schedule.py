"""The learning rate is a function of the share of the training that is done, and of that alone."""

import math
import shutil

import pytest
from lightning import Callback

import train
from lightning_modules import experiment
from tests.helpers.runs import EPOCHS, load, run

PEAK, WARMUP = 3e-3, 0.1  # of the digits experiment
PLAIN = ("tracker=null", "model.model_options.proj_drop_rate=0")


@pytest.fixture
def rates(monkeypatch) -> list[tuple[float, float]]:
    """(epochs done, rate) of every optimizer step of every run of the test."""
    seen = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx % trainer.accumulate_grad_batches == 0:
                share = batch_idx / trainer.num_training_batches
                self.done = trainer.current_epoch + share

        def on_before_optimizer_step(self, trainer, module, optimizer):
            (rate,) = {group["lr"] for group in optimizer.param_groups}
            seen.append((self.done, rate))

    original = experiment.callbacks
    monkeypatch.setattr(experiment, "callbacks", lambda config: [Watch(), *original(config)])
    return seen


def expected(done: float) -> float:
    """The documented curve: linear from a hundredth of the peak, then half a cosine to 0."""
    if done < WARMUP:
        return PEAK * (0.01 + 0.99 * done / WARMUP)
    return PEAK * 0.5 * (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP)))


def assert_follow(rates, epochs: int) -> None:
    for done, rate in rates:
        assert rate == pytest.approx(expected(done / epochs), rel=1e-6, abs=1e-12), done


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ((), 9),
        (("data.batch_size=16",), 18),
        (("data.batch_size=16", "trainer.accumulate_grad_batches=2"), 9),
        (("data.batch_size=16", "trainer.accumulate_grad_batches=4"), 6),  # of 4 and 2 batches
        (("data.train_size=160",), 15),
        (("trainer.limit_train_batches=2",), 6),
        (("trainer.max_steps=2",), 2),
        (("trainer.max_time=00:01:00:00",), 9),
    ],
)
def test_the_rate_depends_on_the_share_alone(tmp_path, rates, options, steps):
    run(tmp_path / "run", *PLAIN, *options)
    assert_follow(rates, EPOCHS)
    assert len(rates) == steps
    if steps > 2:  # a checkpoint has the rate of the next step: none is left
        groups = load(tmp_path / "run")["optimizer_states"][0]["param_groups"]
        assert all(group["lr"] == pytest.approx(0, abs=1e-12) for group in groups)


@pytest.mark.parametrize(
    "options",
    [
        ["data.batch_size=48"],
        ["data.batch_size=16", "trainer.accumulate_grad_batches=3"],
        ["data.train_size=192"],
        ["trainer.limit_train_batches=1"],
    ],
)
def test_a_resume_with_other_steps_goes_on_along_the_curve(trained, tmp_path, rates, options):
    """Two of four epochs are done; the first two had been planned as all."""
    run_dir = shutil.copytree(trained(*PLAIN, "trainer.max_epochs=2"), tmp_path / "run")
    rates.clear()
    train.main(["--resume", str(run_dir), "trainer.max_epochs=4", *options])
    assert min(done for done, _ in rates) == 2
    assert_follow(rates, 4)


def test_steps_alone_span_the_curve_and_more_steps_span_it_anew(tmp_path, rates):
    steps = ["trainer.max_epochs=-1", "trainer.max_steps=6"]
    run_dir = run(tmp_path / "run", *PLAIN, *steps)
    by_step = [(step / 6, rate) for step, (_, rate) in enumerate(rates)]
    assert len(by_step) == 6
    assert_follow(by_step, 1)
    rates.clear()
    train.main(["--resume", str(run_dir), "trainer.max_steps=9"])
    by_step = [(step / 9, rate) for step, (_, rate) in enumerate(rates, start=6)]
    assert len(by_step) == 3
    assert_follow(by_step, 1)


def test_without_warm_up_the_first_step_is_at_the_peak(tmp_path, rates):
    run(tmp_path / "run", *PLAIN, "model.warmup=0.0", "trainer.max_epochs=1")
    assert rates[0] == (0, PEAK)


def test_a_run_that_only_warms_up(tmp_path, rates):
    run(tmp_path / "run", *PLAIN, "model.warmup=1.0", "trainer.max_epochs=1")
    assert [rate / PEAK for _, rate in rates] == pytest.approx([0.01, 0.34, 0.67])
