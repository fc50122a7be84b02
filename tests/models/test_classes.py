"""Classes are names, not places or counts, wherever a model meets data."""

import shutil
from pathlib import Path

import pytest
import timm
import torch

import explain
import train
from lightning_modules.models.class_names import are_names, are_same, difference, places
from tests.commands.test_edges import image_folder, text_table
from tests.commands.test_options import assert_says, told
from tests.helpers.runs import TRAINER, load

CLASSES = ["cat", "dog", "emu"]
ONE_EPOCH = ["trainer.max_epochs=1", "tracker=null"]
DATA = pytest.mark.parametrize("data", [image_folder, text_table])


def fit(run_dir: Path, options: list[str], *more: str) -> Path:
    train.main(
        [*TRAINER, *options, "trainer.max_epochs=1", "tracker=null", f"run_dir={run_dir}", *more]
    )
    return run_dir


def test_names_are_compared_in_their_order_and_whatever_their_case():
    assert are_same(["NEGATIVE", "Positive"], ["negative", "positive"])
    assert not are_same(["negative", "positive"], ["positive", "negative"])
    assert not are_same(["us", "US"], ["US", "us"])  # two classes that differ in case alone
    assert places(["b", "c", "a"], ["a", "b", "c"]) == [1, 2, 0]
    assert places(["a", "b"], ["a", "b", "c"]) is None
    assert "another order" in difference(["b", "a"], ["a", "b"])
    assert "only here 'z'; only there 'a'" in difference(["z", "b"], ["a", "b"])
    assert not are_names(["0", "1"]) and not are_names(["LABEL_0"]) and are_names(["0", "2"])


@DATA
@pytest.mark.parametrize("now", [["dog", "emu", "zebu"], ["cat", "dog"], [*CLASSES, "fox"]])
def test_a_resume_with_other_classes_is_refused(tmp_path, data, now, capsys):
    run_dir = fit(tmp_path / "run", data(tmp_path, train=CLASSES, val=CLASSES))
    for folder in ("train", "val"):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
    data(tmp_path, train=now, val=now)
    resume = ["--resume", str(run_dir), "trainer.max_epochs=2"]
    message = told(capsys, train.main, resume)
    assert_says(
        message, "the classes are not those of | only | accepted with --resume: the classes"
    )


@pytest.mark.parametrize(
    ("data", "option", "named"),
    [
        (image_folder, "data.image_size=40", "input_size"),
        (image_folder, "data.transforms_of=vit_tiny_patch16_224.augreg_in21k_ft_in1k", "mean"),
        (text_table, "data.max_length=32", "max_length"),
        (text_table, "data.overlap=4", "overlap"),
    ],
)
def test_a_resume_with_other_inputs_is_refused(tmp_path, data, option, named, capsys):
    options = data(tmp_path, train=CLASSES, val=CLASSES)
    options += ["data.transforms_of=null"] if data is image_folder else []
    run_dir = fit(tmp_path / "run", options)
    message = told(capsys, train.main, ["--resume", str(run_dir), "trainer.max_epochs=2", option])
    assert_says(message, f"the data's {named} is | accepted with --resume: that of {run_dir}")


def test_a_resume_keeps_the_tokenizer_that_was_trained_on_the_texts(tmp_path):
    """With more texts another would be trained, whose numbers are of other pieces."""
    run_dir = fit(tmp_path / "run", text_table(tmp_path, train=CLASSES, val=CLASSES))
    before = load(run_dir)["hyper_parameters"]["input_config"]
    with open(tmp_path / "train.csv", "a", newline="") as file:
        file.writelines(f"{word} zzz,cat\r\n" for word in ("aardvark", "abacus", "abbey"))
    train.main(["--resume", str(run_dir), "trainer.max_epochs=2"])
    assert load(run_dir)["epoch"] == 1
    assert load(run_dir)["hyper_parameters"]["input_config"] == before


@DATA
def test_an_evaluation_on_other_classes_is_refused(tmp_path, data, capsys):
    run_dir = fit(tmp_path / "run", data(tmp_path, train=CLASSES, val=CLASSES))
    for folder in ("train", "val"):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
    other = ["dog", "emu", "zebu"]
    data(tmp_path, train=other, val=other)
    command = ["evaluate", "--checkpoint", str(run_dir), "--protocol", "sanity", "--limit", "1"]
    message = told(capsys, explain.main, command)
    assert_says(message, "'zebu' | 'cat' | accepted: data of the model's classes, in their order")


def test_weights_without_names_take_the_datas_and_say_so(tmp_path, capsys):
    image_folder(tmp_path, train=CLASSES, val=CLASSES)
    weights = tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=3).state_dict(), weights)
    of_data = ["data.kind=image_folder", f"data.root={tmp_path}", "data.num_workers=0"]
    of_data += ["data.image_size=224", "data.transforms_of=vit_tiny_patch16_224"]
    command = ["evaluate", "--timm", f"vit_tiny_patch16_224@{weights}", "--protocol", "sanity"]
    command += ["--method", "raw_attention", "--limit", "1", "--output", str(tmp_path / "out")]
    explain.main([*command, *of_data])
    assert "the data's are taken in their order: cat, dog, emu" in capsys.readouterr().err
