"""train.py export: what it writes beside the model, what it refuses, and what it pushes."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image
from rich.console import Console
from rich.markdown import Markdown

import train
from lightning_modules.data.texts.tokenizers import input_config_of
from lightning_modules.export.run import without_paths
from tests.helpers.exports import NAMES, export, input_config, save_run
from tests.helpers.hub import TOKEN, stand_in
from tests.helpers.published import SIZES, VIT, tokenizer_of

EVIL = "![x](http://a)<script>|`"
ONE_EPOCH = ("trainer.max_epochs=1",)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An image classifier of transformers, with all files that a run leaves."""
    folder = tmp_path_factory.mktemp("runs") / "of_*stars*"
    names = [NAMES[0], EVIL, "ordinary"]
    save_run(folder, "hf_image", input_config(), names, config=VIT)
    metrics = {"test/accuracy": 0.75, "test_class_accuracy/ordinary": 0.5}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    lines = ["name,samples,precision,recall,f1", "a cat,4,,0.0,0.0", "ordinary,3,0.25,0.5,0.333"]
    (folder / "classes.csv").write_text("\n".join([*lines, f'"{EVIL}",1,1.0,1.0,1.0']) + "\n")
    (folder / "explanations").mkdir()
    for name in ("epoch=002", "pairs-epoch=010", "epoch=010"):
        Image.new("RGB", (8, 8), "red").save(folder / "explanations" / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def card(run):
    return (export(run, "hf") / "README.md").read_text()


def save_texts(folder: Path) -> Path:
    return save_run(folder, "bert", input_config_of(tokenizer_of(), 24, None), config=SIZES)


def refused(capsys, *words) -> str:
    with pytest.raises(SystemExit) as ended:
        train.main(["export", *map(str, words)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


# ------------------------------------------------------------------------------------ the card


def test_the_card_has_the_figures_of_the_test(card):
    assert "| test/accuracy | 0.7500 |" in card
    assert "| a cat | - | 0.000 | 0.000 | 4 |" in card
    assert "class\\_accuracy" not in card


def test_the_card_shows_the_pictures_of_the_last_epoch(card, run):
    shown = re.findall(r"!\[.*?\]\((.*?)\)", card.split("## Explanations")[1])
    assert sorted(shown) == ["explanations/epoch=010.png", "explanations/pairs-epoch=010.png"]
    folder = run.parent / f"{run.name}-hf"
    assert sorted(x.relative_to(folder).as_posix() for x in folder.glob("*/*")) == sorted(shown)


def test_names_of_the_user_are_only_text_in_the_card(card):
    assert "<script>" not in card and "](http://a)" not in card
    console = Console(width=200, record=True, file=open(os.devnull, "w"))
    console.print(Markdown(card.split("---", 2)[2]))
    shown = console.export_text()
    assert shown.count(EVIL) == 2 and "of_*stars*" in shown  # in the text and in the table
    front = yaml.safe_load(card.split("---")[1])
    assert front["pipeline_tag"] == "image-classification" and "license" not in front


def test_nothing_in_the_folder_names_a_place_of_the_machine(run):
    for to in ("hf", "safetensors"):
        folder = run.parent / f"{run.name}-{to}"
        if not folder.exists():
            export(run, to)
        for path in folder.rglob("*"):
            assert path.is_dir() or str(run.parent).encode() not in path.read_bytes(), path
    assert "root: secret" in (folder / "README.md").read_text()


def test_only_the_checkpoint_that_was_tested_has_the_figures(run, tmp_path):
    whole = shutil.copytree(run, tmp_path / "run")
    last = whole / "checkpoints" / "last.ckpt"
    shutil.copy(whole / "checkpoints" / "best.ckpt", last)
    train.main(["export", str(last), "--to", "safetensors", str(tmp_path / "out")])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "0.7500" not in card and "root: secret" in card


def test_a_checkpoint_alone_is_exported(run, tmp_path):
    alone = shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "mine.ckpt")
    train.main(["export", str(alone), "--to", "hf", str(tmp_path / "in" / "out")])
    assert (tmp_path / "in" / "out" / "README.md").read_text().count("# mine") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/my data/cats", "cats"),
        ("~/cats", "cats"),
        ("C:\\Users\\me\\cats", "cats"),
        ("file:///home/me/cats", "cats"),
        ("train:/home/me/a.csv,/home/me/b.csv", "train:a.csv,b.csv"),
        ("runs/cats", "runs/cats"),
        ("https://a.b/c", "https://a.b/c"),
        ("package:x/y", "package:x/y"),
        ("a/b or /", "a/b or /"),
        (["/a/b", {"/a/c": 1, "n": None}], ["b", {"c": 1, "n": None}]),
    ],
)
def test_absolute_paths_lose_their_folders(text, expected):
    assert without_paths(text) == expected


def test_a_run_is_exported_as_it_was_trained(trained, tmp_path):
    folder = trained(*ONE_EPOCH)
    train.main(["export", str(folder), "--to", "timm", str(tmp_path / "out")])
    card = (tmp_path / "out" / "README.md").read_text()
    accuracy = json.loads((folder / "metrics.json").read_text())["test/accuracy"]
    assert f"| test/accuracy | {accuracy:.4f} |" in card and "kind: digits" in card
    assert (tmp_path / "out" / "explanations" / "epoch=000.png").read_bytes() == (
        folder / "explanations" / "epoch=000.png"
    ).read_bytes()


# --------------------------------------------------------------------------------- what is refused


def test_a_format_that_is_not_for_the_model_is_refused(run, tmp_path, capsys):
    out = tmp_path / "out"
    line = refused(capsys, run, "--to", "timm", out)
    assert "the model is of the kind hf_image (ViTForImageClassification); accepted: " in line
    texts = save_run(
        tmp_path / "t", "bert", input_config_of(tokenizer_of(), 24, None), config=SIZES
    )
    assert "of the kind bert" in refused(capsys, texts, "--to", "timm", out)
    assert not list(tmp_path.glob("*out*"))


def test_a_folder_that_is_not_empty_is_left_as_it_is(run, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert "it is not empty; accepted: " in refused(capsys, run, "--to", "hf", tmp_path)
    line = refused(capsys, run, "--to", "hf", tmp_path / "mine.txt" / "out")
    assert "mine.txt is no folder; accepted: " in line
    assert [x.name for x in tmp_path.iterdir()] == ["mine.txt"]
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_an_empty_folder_is_taken(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    train.main(["export", str(run), "--to", "safetensors", str(out)])
    assert (out / "model.safetensors").is_file()


def test_nothing_is_left_of_an_export_that_fails(tmp_path, capsys, monkeypatch):
    texts = save_run(
        tmp_path / "t", "bert", input_config_of(tokenizer_of(), 24, None), config=SIZES
    )
    (tmp_path / "place").mkdir()

    def full(self, folder, **options):
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    line = refused(capsys, texts, "--to", "hf", tmp_path / "place" / "a" / "out")
    assert "No space left on device" in line
    assert list((tmp_path / "place").iterdir()) == []


def test_no_run_is_told_in_a_line(tmp_path, capsys):
    line = refused(capsys, tmp_path, "--to", "hf", tmp_path / "out")
    assert f"{tmp_path}: no checkpoint is there; accepted: " in line


# ----------------------------------------------------------------------------------- the hub


@pytest.fixture
def hub(monkeypatch):
    """The files that a stand-in for the hub gets, which is asked in its place."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with stand_in() as (address, files):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)  # as HF_ENDPOINT does
        yield files


def test_all_files_of_the_folder_are_pushed(run, tmp_path, capsys, monkeypatch, hub):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    out = tmp_path / "out"
    train.main(["export", str(run), "--to", "safetensors", str(out), "--push", "me/mine"])
    written = {x.relative_to(out).as_posix(): x for x in out.rglob("*") if x.is_file()}
    assert {f"me/mine/{name}": x.read_bytes() for name, x in written.items()} == hub
    assert "explanations/epoch=010.png" in written
    assert capsys.readouterr().out.strip().endswith("/me/mine")


def test_a_push_that_fails_is_told_in_a_line_and_the_folder_stays(
    run, tmp_path, capsys, monkeypatch, hub
):
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    line = refused(capsys, run, "--to", "hf", tmp_path / "out", "--push", "me/mine")
    assert "cannot be pushed" in line and "accepted: " in line and "401" in line
    assert (tmp_path / "out" / "model.safetensors").is_file() and not hub


def test_without_network_a_push_is_told_in_a_line(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)  # and HF_HUB_OFFLINE is set
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = refused(capsys, run, "--to", "hf", tmp_path / "out", "--push", "me/mine")
    assert "is written, and cannot be pushed" in line and "hf upload me/mine" in line


def test_without_a_token_or_an_id_nothing_is_written(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    words = (run, "--to", "hf", tmp_path / "out", "--push")
    assert "there is no token; accepted: " in refused(capsys, *words, "me/mine")
    assert "--push a/b/c: " in refused(capsys, *words, "a/b/c")
    assert list(tmp_path.iterdir()) == []
