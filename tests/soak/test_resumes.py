"""Further ways to stop a run, to fail in one of two processes, and to score in two.

pytest tests/soak
"""

import pytest

from tests.helpers.runs import EXPERIMENTS, ONE_EPOCH
from tests.training import test_resume
from tests.training.test_processes import check_failure, check_scores
from tests.training.test_resume import check_resume
from tests.training.test_stops import ACCUMULATED, MIXED, VALIDATED, WORKERS, check_stop

stop_in_epoch = test_resume.stop_in_epoch


@pytest.mark.parametrize(
    ("experiment", "options", "step"),
    [
        ("digits", (), 1),
        ("digits", (), 4),
        ("digits", (), 5),
        ("digits", MIXED, 4),
        ("digits", ACCUMULATED, 4),
        ("digits", WORKERS, 4),
        ("digits", VALIDATED, 9),
        ("reviews", (), 4),
        ("reviews", ACCUMULATED, 5),
    ],
)
def test_a_run_stopped_at_a_step_is_resumed_to_the_same_end(
    trained, tmp_path, experiment, options, step
):
    check_stop(trained, tmp_path / "run", experiment, options, step)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("epoch", [0, 2])
def test_a_resumed_run_is_bit_identical(experiment, trained, tmp_path, stop_in_epoch, epoch):
    check_resume(experiment, trained(experiment=experiment), tmp_path, stop_in_epoch, epoch)


def test_no_process_waits_for_one_that_has_failed_in_a_step(tmp_path):
    check_failure(tmp_path, 1, "ViTClassifier.training_step")


@pytest.mark.parametrize(
    ("experiment", "protocol", "begun"),
    [("digits", "perturbation", True), ("reviews", "rationales", False)],
)
def test_two_processes_score_as_one(trained, tmp_path, monkeypatch, experiment, protocol, begun):
    run_dir = trained(*ONE_EPOCH, experiment=experiment)
    check_scores(run_dir, tmp_path, monkeypatch, protocol, begun)
