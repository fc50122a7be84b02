"""Several labels, and numbers: trained, tracked, stopped and resumed, explained and scored."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import explain
import train
from lightning_modules.data import DigitsDataModule, ReviewsDataModule
from lightning_modules.models.fit_checks import check_one_task
from tests.helpers.processes import finish_two
from tests.helpers.runs import (
    DIGITS,
    REVIEWS,
    assert_identical,
    assert_same_end,
    load,
    rows,
    run,
)

TWO = ("trainer.max_epochs=2",)
TASKS = {"multilabel": "average_precision", "regression": "rmse"}  # what is monitored


@pytest.fixture(scope="module", params=TASKS)
def task(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def undisturbed(task, trained):
    return trained(f"task={task}", *TWO)


def test_a_run_stopped_within_an_epoch_ends_as_one_that_was_not(task, undisturbed, tmp_path):
    """After the first of three steps of the second epoch."""
    run(tmp_path / "run", f"task={task}", *TWO, "trainer.max_steps=4")
    train.main(["--resume", str(tmp_path / "run"), "trainer.max_steps=-1"])
    assert_same_end(tmp_path / "run", undisturbed, TASKS[task])


def test_the_tracker_does_not_touch_training(task, undisturbed, tmp_path):
    without = run(tmp_path / "run", f"task={task}", "tracker=null", *TWO)
    for part in ("state_dict", "optimizer_states"):
        assert_identical(load(without)[part], load(undisturbed)[part])


def test_the_best_epoch_is_that_of_the_monitored_metric(task, undisturbed):
    values = [float(row[f"val/{TASKS[task]}"]) for row in rows(undisturbed)]
    best = np.argmin(values) if task == "regression" else np.argmax(values)
    assert load(undisturbed, "best")["epoch"] == best
    assert f"test/{TASKS[task]}" in json.loads((undisturbed / "metrics.json").read_text())


def test_a_falling_metric_is_better_where_it_is_an_error(tmp_path):
    """With a rate of 0 the error stays: patience ends the run; the first epoch is the best."""
    run(tmp_path / "run", "task=regression", "model.lr=0.0", "patience=1", "trainer.max_epochs=9")
    assert len(rows(tmp_path / "run")) == 2
    learning = run(tmp_path / "other", "task=regression", "patience=1", *TWO, "tracker=null")
    values = [float(row["val/rmse"]) for row in rows(learning)]
    assert values[1] < values[0] and load(learning, "best")["epoch"] == 1


def test_the_tracker_scores_each_label_against_its_own_digit(undisturbed, task):
    row = rows(undisturbed)[-1]
    assert 0 < float(row["relevance/mIoU"]) < 1
    assert ("relevance/class_specificity" in row) == (task == "multilabel")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "0" / "scene.png"  # in a folder that has the name of a label
    path.parent.mkdir()
    scene = DigitsDataModule(task="multilabel", test_size=1).test_dataset[0]["image"]
    Image.fromarray((scene.permute(1, 2, 0).numpy() * 127.5 + 127.5).astype("uint8")).save(path)
    return path


def explained(checkpoint, folder, *arguments) -> dict:
    explain.main(
        ["--checkpoint", str(checkpoint), "--output", str(folder), "--format", "json,png,html,npz"]
        + [str(x) for x in arguments]
    )
    return json.loads((folder / "explanations.json").read_text())


def test_explain_says_labels_with_sigmoids_and_numbers_as_they_are(
    task, undisturbed, picture, tmp_path
):
    found = explained(undisturbed, tmp_path / "out", "--input", picture)
    (entry,) = found["inputs"]
    assert entry["label"] is None
    if task == "regression":
        assert found["class_names"] == ["ink"] and entry["probability"] is None
        return
    sigmoids = torch.tensor(entry["logit"]).sigmoid()
    torch.testing.assert_close(torch.tensor(entry["probability"]), sigmoids)
    low = "present"  # none is found: the most probable
    found = explained(undisturbed, tmp_path / "more", "--input", picture, "--target", low, "top3")
    order = sigmoids.argsort(descending=True).tolist()
    assert found["inputs"][0]["classes"] == order[:3]


@pytest.mark.parametrize("protocol", ["segmentation", "specificity", "perturbation", "sanity"])
def test_protocols_have_a_meaning_or_are_refused_in_words(
    task, undisturbed, protocol, tmp_path, capsys
):
    arguments = ["evaluate", "--checkpoint", str(undisturbed), "--protocol", protocol]
    arguments += ["--method", "rollout", "attnlrp", "--limit", "8", "--output", str(tmp_path)]
    if task == "regression" and protocol in ("specificity", "perturbation"):
        with pytest.raises(SystemExit) as ended:
            explain.main(arguments)
        assert ended.value.code == 2
        said = f"--protocol {protocol}: the task of the model is regression; accepted: multiclass"
        assert said in capsys.readouterr().err
    else:
        explain.main(arguments)
        scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
        assert {score["method"] for score in scores} == {"rollout", "attnlrp"}


def test_stars_of_reviews_are_learnt_and_explained(tmp_path):
    config = "--config=configs/bert_stars.yaml"
    options = [config if x.startswith("--config") else x for x in REVIEWS]
    train.main([*options, *TWO, f"run_dir={tmp_path / 'run'}"])
    assert "relevance/token_f1" not in rows(tmp_path / "run")[0]
    text = ReviewsDataModule(task="regression", test_size=1).test_dataset[0]["text"]
    found = explained(tmp_path / "run", tmp_path / "out", "--text", text)
    assert found["class_names"] == ["stars"]


WEIGHTED = ["model.class_weights=[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]", "model.focal=1.5"]


OF_TASKS = {"labels": ["task=multilabel"], "numbers": ["task=regression"], "weights": WEIGHTED}


@pytest.mark.parametrize("options", OF_TASKS.values(), ids=OF_TASKS)
def test_two_processes_have_the_figures_of_one(tmp_path, options):
    """Average precision, R2 and Spearman need all samples at once, a weighted loss all weights."""
    exact = ["model.model_options.proj_drop_rate=0", "model.model_options.drop_path_rate=0"]
    exact += ["trainer.precision=64-true", "trainer.max_epochs=1", *options]
    one = run(tmp_path / "one", *exact, "tracker=null")
    two = ["trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=16", "tracker=null"]
    for ended in finish_two("train.py", *DIGITS, *exact, *two, f"run_dir={tmp_path / 'run'}"):
        assert ended.returncode == 0, ended.stderr[-2000:]
    (expected,), (found,) = rows(one), rows(tmp_path / "run")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float(found[name] or "nan") == pytest.approx(
            float(value or "nan"), abs=1e-5, nan_ok=True
        ), name
    weights = [load(run_dir)["state_dict"] for run_dir in (one, tmp_path / "run")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-9)


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["task=ordinal"], "task is 'ordinal'; accepted: multiclass, multilabel, regression"),
        (["task=multilabel", "model.mixup=0.5"], "mixup is 0.5 and cutmix 0.0, and the task is"),
        (["model.threshold=0.3"], "threshold is 0.3, and the task is multiclass; accepted"),
        (["task=regression", "trainer.precision=bf16-true"], "bf16-true, which rounds the true"),
        (["model.task=multilabel"], "data.task is multiclass, model.task is multilabel; accepted"),
        (["data.kind=pets", "data.root=/", "task=regression"], "accepted: of these data multiclas"),
    ],
)
def test_what_does_not_go_with_a_task_ends_in_a_line(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        train.main([*DIGITS[:6], f"run_dir={tmp_path / 'run'}", *options])
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_resumed_with_another_task(tmp_path, capsys):
    run(tmp_path / "run", "task=multilabel", "trainer.max_epochs=1", "tracker=null")
    with pytest.raises(SystemExit):
        train.main(["--resume", str(tmp_path / "run"), "task=multiclass", "trainer.max_epochs=2"])
    said = "task is multiclass; accepted with --resume: multilabel"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("precision", [None, 16, "16", "bf16", "bf16-mixed", "32-true"])
def test_mixed_precision_under_any_of_its_names_is_for_numbers_too(precision):
    """Lightning's 16 and bf16 are 16-mixed and bf16-mixed."""
    of_task = {"task": "regression"}
    check_one_task(
        {
            "task": "regression",
            "data": of_task,
            "model": of_task,
            "trainer": {"precision": precision},
        }
    )
