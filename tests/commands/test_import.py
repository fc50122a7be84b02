"""--import MODULE: a module of the user's registers what the command line then finds."""

import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

import explain
import train
from lightning_modules.callbacks.endings import explain_command, how_to_carry_on
from lightning_modules.data import DATAMODULES
from tests.helpers.processes import ROOT, finish, finish_two
from tests.helpers.runs import DIGITS
from tests.helpers.samples import save

HINT = "; was it registered by a module? "
DATA = ["data.train_size=64", "data.val_size=20", "data.test_size=20", "data.pairs_size=4"]
MODULE = """
import relprop
from lightning_modules.data import DATAMODULES, DigitsDataModule

class Mine(DigitsDataModule):
    pass

DATAMODULES["mine"] = Mine

@relprop.method("mine_of_all")
def mine_of_all(trace, target, options):
    return relprop.METHODS["gradcam"](trace, target, options)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, which is empty; the path to modules is as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def told(capsys, main, *arguments) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(list(map(str, arguments)))
    assert exit_.value.code == 2
    (message,) = capsys.readouterr().err.strip().splitlines()
    return message


COMMANDS = pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (train.main, ()),
        (explain.main, ("--checkpoint", "none", "--input", "a.png")),
        (explain.main, ("evaluate", "--checkpoint", "none", "--protocol", "sanity")),
    ],
)


@COMMANDS
def test_a_module_that_is_not_there_is_told(capsys, main, arguments):
    message = told(capsys, main, *arguments, "--import", "mine_nowhere")
    assert "--import mine_nowhere: no such module; accepted: the name of a module" in message


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("import os\n\nraise ValueError('of its own')", "line 3: ValueError: of its own"),
        ("import mine_nowhere", "line 1: ModuleNotFoundError: No module named 'mine_nowhere'"),
        ("1 +", "line 1: SyntaxError"),
        ("import sys\nsys.exit(3)", "line 2: SystemExit: 3"),
    ],
)
def test_a_module_that_fails_is_told_with_its_line(folder, capsys, text, named):
    (folder / "mine_broken.py").write_text(text)
    message = told(capsys, explain.main, "--checkpoint", "none", "--import", "mine_broken")
    assert f"--import mine_broken: mine_broken.py, {named}" in message
    assert "accepted: a module that can be imported" in message


def test_the_line_is_the_users_where_the_registry_refuses(folder, capsys):
    (folder / "mine_twice.py").write_text(
        "from relprop.registry import Registry\n"
        "SHAPES = Registry('shape')\n"
        "def square(): pass\n"
        "def round(): pass\n"
        "SHAPES.register('a')(square)\n"
        "SHAPES.register('a')(round)\n"
    )
    message = told(capsys, train.main, "--import", "mine_twice")
    assert "mine_twice.py, line 6: ValueError: the shape 'a' is registered already" in message


def test_the_name_of_a_file_is_no_name_of_a_module(folder, capsys):
    (folder / "mine.py").write_text("raise ValueError")
    message = told(capsys, train.main, "--import", "mine.py")
    assert "--import mine.py: no name of a module" in message and "without .py" in message


@pytest.mark.parametrize(
    ("main", "arguments", "named"),
    [
        (train.main, [*DIGITS, "model.kind=mine"], 'model.kind: "mine" is unknown'),
        (train.main, [*DIGITS, "data.kind=mine"], 'data.kind: "mine" is unknown'),
        (train.main, [*DIGITS, *DATA, "tracker.protocols=[mine]"], "has 'mine'; accepted: "),
        (explain.main, ["--timm", "a", "--method", "mine"], "--method mine; accepted: all, "),
        (
            explain.main,
            ["evaluate", "--timm", "a", "--protocol", "mine"],
            "--protocol mine; accepted: ",
        ),
        (
            explain.main,
            ["evaluate", "--timm", "a", "--protocol", "sanity", "--method", "mine"],
            "--method mine; accepted: all, ",
        ),
    ],
)
def test_an_unknown_name_asks_for_its_module(folder, capsys, main, arguments, named):
    if main is train.main:
        config = f"--config={ROOT / 'configs' / 'vit_digits.yaml'}"
        options = [option for option in arguments if not option.startswith("--config")]
        arguments = [config, f"run_dir={folder / 'run'}", *options]
    message = told(capsys, main, *arguments)
    assert named in message and message.endswith(f"{HINT}--import MODULE")


def test_an_unknown_format_does_not_ask_for_a_module(capsys):
    message = told(capsys, explain.main, "--timm", "a", "--format", "mine")
    assert "--format mine" in message and HINT not in message


CONFIG = "run_dir: run\nimports: [mine_a, mine_b]\nmodel: {kind: mine}\ndata: {kind: digits}\n"
NAMED = f"{HINT}--import mine_a --import mine_b"


def test_the_modules_that_a_config_names_are_told_and_not_imported(folder, capsys):
    for name in ("mine_a", "mine_b"):
        (folder / f"{name}.py").write_text("raise ValueError('a config runs no code')")
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text(CONFIG)
    for arguments in (["--config", "run/config.yaml"], ["--resume", "run"]):
        assert told(capsys, train.main, *arguments).endswith(NAMED)
    (folder / "run" / "checkpoints").mkdir()
    (folder / "run" / "checkpoints" / "best.ckpt").touch()
    for path in ("run", "run/checkpoints/best.ckpt"):
        message = told(capsys, explain.main, "--checkpoint", path, "--method", "mine")
        assert message.endswith(NAMED)


@pytest.mark.parametrize("text", ["imports: 3", "imports: [1]", "imports: [", "- a"])
def test_a_config_that_cannot_be_read_leaves_the_hint_as_it_is(folder, capsys, text):
    (folder / "config.yaml").write_text(text)
    message = told(capsys, explain.main, "--checkpoint", ".", "--method", "mine")
    assert message.endswith(f"{HINT}--import MODULE")


def test_the_config_of_a_run_names_what_was_imported(folder, capsys):
    for name in ("mine_c", "mine_d"):
        (folder / f"{name}.py").touch()
    path = folder / "a.yaml"
    path.write_text(CONFIG.replace("mine}", "vit}"))
    options = ["--config", str(path), "--import", "mine_c", "--import", "mine_d", "--print-config"]
    train.main([*options, "--import", "mine_c", "model.name=test_vit"])
    assert OmegaConf.create(capsys.readouterr().out).imports == [
        *("mine_a", "mine_b"),  # which the file says
        *("mine_c", "mine_d"),
    ]
    assert "mine_c" in sys.modules and "mine_a" not in sys.modules


def test_the_commands_for_people_have_the_imports_that_they_need(folder):
    (folder / "a run").mkdir()
    (folder / "a run" / "config.yaml").touch()
    config = OmegaConf.create({"run_dir": "a run", "imports": ["mine_a", "b.c"], "trainer": {}})
    imports = "--import mine_a --import b.c"
    carry_on = f"; to carry on: python train.py {imports} --resume 'a run'"
    assert how_to_carry_on(config) == carry_on
    data = DATAMODULES["digits"](train_size=1, val_size=1, test_size=1, pairs_size=1)
    command = f"python explain.py {imports} --checkpoint 'a run' --input PICTURE"
    assert explain_command(config, data) == command


def test_a_module_of_the_users_trains_tracks_and_explains(folder, capsys):
    """In two processes, with a worker each; and the run says what it needs to go on."""
    (folder / "mine_all.py").write_text(MODULE)
    few = [option for option in DIGITS if not option.startswith(("--config", "trainer.max_ep"))]
    ended, other = finish_two(
        *("train.py", "--import", "mine_all", *few, *DATA, "run_dir=run", "data.kind=mine"),
        *("tracker.method=mine_of_all", "tracker.samples=4", "data.num_workers=1"),
        *("trainer.max_epochs=2", "trainer.max_steps=1", "data.batch_size=16"),
        *("trainer.devices=2", "trainer.strategy=ddp"),
        cwd=folder,
        PYTHONPATH="",
    )
    assert (ended.returncode, other.returncode) == (0, 0), ended.stderr + other.stderr
    assert "data        mine: 64 training" in ended.stdout
    assert "python explain.py --import mine_all --checkpoint run --input" in ended.stdout
    assert "python train.py --import mine_all --resume run" in ended.stdout
    assert OmegaConf.load("run/config.yaml").imports == ["mine_all"]

    for main, arguments in (
        (train.main, ["--resume", "run"]),
        (explain.main, ["--checkpoint", "run", "--method", "mine_of_all"]),
        (explain.main, ["evaluate", "--checkpoint", "run", "--protocol", "sanity"]),
    ):
        assert told(capsys, main, *arguments).endswith(f"{HINT}--import mine_all")

    save(folder / "a.png", Image.fromarray(np.zeros((32, 32, 3), np.uint8)))
    words = ["--checkpoint", "run", "--input", "a.png", "--method", "mine_of_all"]
    explained = finish("explain.py", "--import", "mine_all", *words, cwd=folder, PYTHONPATH="")
    assert explained.returncode == 0, explained.stderr
    assert "1 of 1 explained" in explained.stdout
