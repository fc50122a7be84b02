"""Runs that go on from another with new classes: resumed, in two processes, scored, and refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import explain
import train
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.run_folder import check_same_model
from tests.helpers.processes import finish_two
from tests.helpers.runs import DIGITS, assert_same_end, curve, load, rows, run

SMALL = (
    "data.train_size=60",
    "data.val_size=40",
    "data.test_size=20",
    "data.batch_size=20",
    "data.pairs_size=4",
)
FIRST = (*SMALL, "data.classes=[0,1,2]", "tracker=null", "trainer.max_epochs=1")
SECOND = (*SMALL, "data.classes=[7,8]", "trainer.max_epochs=2", "distill.region=mask")
FIGURES = ("accuracy_old", "accuracy_new", "forgetting")


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("old") / "run", *FIRST)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, old) -> Path:
    return run(tmp_path_factory.mktemp("new") / "run", *SECOND, f"model.previous={old}")


def test_a_run_that_goes_on_is_measured_on_old_and_new_classes(old, undisturbed):
    table = rows(undisturbed)
    tested = json.loads((undisturbed / "metrics.json").read_text())
    for name in FIGURES:
        assert f"test/{name}" in tested
        assert all(row[f"val/{name}"] for row in table)
    assert 0 <= float(table[-1]["val/accuracy_old"]) <= 1
    of_teacher = [float(x["val/forgetting"]) + float(x["val/accuracy_old"]) for x in table]
    assert of_teacher[0] == pytest.approx(of_teacher[1])  # the same samples
    for tag in ("train/distill_attention", "train/distill_logits", "relevance/drift_of_old"):
        assert len(curve(undisturbed, tag)) >= 2
    assert curve(undisturbed, "train/distill_attention")[0][1] < 1e-6  # the teacher itself


def test_the_teacher_is_kept_once(old, undisturbed):
    checkpoint = load(undisturbed)
    names = load(old)["state_dict"].keys()
    assert checkpoint["state_dict"].keys() == names
    assert checkpoint["teacher"]["class_names"] == ["0", "1", "2"]
    assert checkpoint["hyper_parameters"]["class_names"] == ["0", "1", "2", "7", "8"]
    theirs = load_classifier(old / "checkpoints" / "best.ckpt")
    kept = load_classifier(undisturbed / "teacher.ckpt")
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, kept.state_dict()[name])


def test_a_run_is_resumed_to_the_bit_after_the_old_one_is_gone(old, undisturbed, tmp_path):
    previous, resumed = tmp_path / "old", tmp_path / "run"
    shutil.copytree(old, previous)
    given = [*SECOND, f"model.previous={previous}"]
    train.main([*DIGITS, f"run_dir={resumed}", *given, "trainer.max_steps=4"])
    shutil.rmtree(previous)
    train.main(["--resume", str(resumed), "trainer.max_steps=-1"])
    assert_same_end(resumed, undisturbed)
    for tag in ("train/distill_attention", "val/forgetting", "relevance/drift_of_old"):
        assert curve(resumed, tag) == curve(undisturbed, tag), tag


def test_a_run_without_a_checkpoint_begins_again_without_the_old_one(undisturbed, tmp_path):
    again = tmp_path / "run"
    again.mkdir()
    for name in ("config.yaml", "teacher.ckpt"):
        shutil.copy(undisturbed / name, again / name)
    config = (again / "config.yaml").read_text()
    (again / "config.yaml").write_text(config.replace("previous: /", "previous: /gone/"))
    train.main(["--resume", str(again), "tracker=null"])
    ours, theirs = load(again)["state_dict"], load(undisturbed)["state_dict"]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_another_teacher_is_refused(undisturbed, tmp_path, capsys):
    broken = tmp_path / "run"
    shutil.copytree(undisturbed, broken)
    state = torch.load(broken / "teacher.ckpt", weights_only=True)
    state["state_dict"]["backbone.head.bias"][0] += 1
    torch.save(state, broken / "teacher.ckpt")
    with pytest.raises(SystemExit) as stopped:
        train.main(["--resume", str(broken), "trainer.max_epochs=3"])
    said = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(said) == 1
    assert f"{broken / 'teacher.ckpt'}: its weights have the hash" in said[0]


def test_a_resume_goes_on_from_what_it_began_with():
    said = "model.previous is runs/b; accepted with --resume: what the run began with, runs/a"
    with pytest.raises(InputError, match=said):
        check_same_model({"previous": "runs/a"}, {"previous": "runs/b"})


def test_a_run_that_goes_on_is_scored_on_all_its_classes(undisturbed, tmp_path):
    given = ["evaluate", "--checkpoint", str(undisturbed), "--protocol", "segmentation"]
    explain.main([*given, "--method", "raw_attention", "--limit", "10", f"--output={tmp_path}"])
    assert json.loads((tmp_path / "scores.json").read_text())


def test_fine_tuning_alone_has_the_same_figures(old, tmp_path):
    given = (*SECOND[:-1], "trainer.max_epochs=1", "tracker=null", f"model.previous={old}")
    found = rows(run(tmp_path / "run", *given))[-1]
    assert all(found[f"val/{name}"] for name in FIGURES)
    assert not any(name.startswith("train/distill") for name in found)


EXACT = (
    "model.model_options.proj_drop_rate=0",
    "model.model_options.drop_path_rate=0",
    "trainer.precision=64-true",
    "tracker=null",
    "trainer.max_epochs=1",
)


def test_two_processes_train_as_one(old, tmp_path):
    given = [*DIGITS, *SECOND, *EXACT, f"model.previous={old}"]
    one = tmp_path / "one"
    train.main([*given, f"run_dir={one}"])
    options = ("trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=10")
    two = tmp_path / "two"
    processes = finish_two("train.py", *given, f"run_dir={two}", *options)
    assert all(x.returncode == 0 for x in processes), processes[0].stderr[-2000:]
    ours, theirs = load(two)["state_dict"], load(one)["state_dict"]
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-9)
    ours, theirs = rows(two)[-1], rows(one)[-1]
    for name in FIGURES:
        assert float(ours[f"val/{name}"]) == pytest.approx(float(theirs[f"val/{name}"]))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("data.classes=[2,7]",), "has learnt '2'; accepted: classes that it has not learnt"),
        (("data.classes=null",), "has learnt '0', '1', '2'; accepted: classes that"),
        (("model.previous=null",), "accepted: model.previous=RUN, or distill=null"),
        (
            ("model.previous=nowhere",),
            "model.previous: nowhere: no such file or folder",
        ),
        (("model.mixup=0.2",), "distill with model.mixup or model.cutmix"),
        (("model.weights=nowhere",), "nowhere"),
        (("distill.region=ink",), "distill.region"),
        (("distill.attention=-1",), "distill.attention"),
        (("distill.weight=1",), "distill.weight: unknown key"),
    ],
)
def test_what_is_refused_is_told_in_a_line(old, tmp_path, capsys, options, reason):
    given = [*DIGITS, *SECOND, f"model.previous={old}", f"run_dir={tmp_path / 'run'}", *options]
    with pytest.raises(SystemExit) as stopped:
        train.main(given)
    said = [x for x in capsys.readouterr().err.strip().splitlines() if "warning" not in x]
    assert stopped.value.code == 2 and len(said) == 1 and reason in said[0]
    assert not (tmp_path / "run" / "teacher.ckpt").exists()
