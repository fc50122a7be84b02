"""What train.py says: plain lines in a pipe, a bar in a terminal, and nothing of libraries."""

import csv
import io
import json
import logging
import os
import pty
import re
import select
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from lightning_modules.callbacks import class_table
from lightning_modules.callbacks.terminal import (
    Terminal,
    classes_of,
    figures_of,
    model_of,
    samples_of,
)
from lightning_modules.data import DATAMODULES
from lightning_modules.utils import terminal
from tests.data.test_image_folder import folder, root  # noqa: F401
from tests.helpers.processes import Started, finish
from tests.helpers.runs import DIGITS, rows, run

ROOT = Path(__file__).parents[2]
STOPPED = ["trainer.max_steps=5", "trainer.log_every_n_steps=50"]  # within the second epoch
LIBRARIES = (  # what they would say in the runs below
    "GPU available",
    "Tip:",
    "LeafSpec",
    "Checkpoint directory",
    "Trainer.fit",
    "Restoring states",
    "Restored all states",
    "Loaded model weights",
    "many workers",
    "Total FLOPs",
    "site-packages",
)


SCREEN = {"COLUMNS": "100", "TERM": "xterm"}
OPTIONS = [option for option in DIGITS if "enable_" not in option and "log_every" not in option]
OPTIONS += STOPPED


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> SimpleNamespace:
    """A run into files that is stopped within its second epoch: its folder, what it printed."""
    run_dir = tmp_path_factory.mktemp("runs") / "a run"
    ended = finish("train.py", *OPTIONS, f"run_dir={run_dir}", **SCREEN)
    assert ended.returncode == 0, ended.stderr
    metrics = json.loads((run_dir / "metrics.json").read_text())
    said = {"out": ended.stdout, "err": ended.stderr}
    return SimpleNamespace(run_dir=run_dir, metrics=metrics, **said)


@pytest.fixture(scope="module")
def resumed(stopped) -> SimpleNamespace:
    """The same, carried on in a pseudo terminal: all that it printed, and what is left of it."""
    ours, theirs = pty.openpty()
    words = ("--resume", str(stopped.run_dir), "trainer.max_steps=-1")
    started = Started("train.py", *words, terminal=os.ttyname(theirs), **SCREEN)
    printed = b""
    while not select.select([started.process.sentinel], [], [], 0)[0] or waits(ours, 0):
        if waits(ours, 0.1):
            printed += os.read(ours, 65536)
    os.close(theirs)
    os.close(ours)
    text = printed.decode()
    assert started.end().returncode == 0, text
    return SimpleNamespace(run_dir=stopped.run_dir, out=text, screen=on_screen(text))


def waits(terminal: int, seconds: float) -> bool:
    """Whether something can be read of it, at once or so many seconds later."""
    return bool(select.select([terminal], [], [], seconds)[0])


def on_screen(printed: str) -> str:
    """The lines that a terminal shows in the end."""
    lines, row, column = [""], 0, 0
    for control, count, name, character in re.findall(
        r"(\x1b\[\??([\d;]*)([A-Za-z]))|([\s\S])", printed
    ):
        if control:
            row -= int(count or 1) if name == "A" else 0
            lines[row] = "" if name == "K" else lines[row]
        elif character == "\r":
            column = 0
        elif character == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        else:
            lines[row] = lines[row].ljust(column)[:column] + character + lines[row][column + 1 :]
            column += 1
    return "\n".join(line.rstrip() for line in lines)


# ------------------------------------------------------------------------------------- a run


def test_what_is_no_terminal_gets_plain_lines(stopped):
    for line in (*stopped.out.split("\n"), *stopped.err.split("\n")):
        assert line.isprintable(), repr(line)
    assert not re.search("━|Epoch|Testing", stopped.out + stopped.err)  # of a bar


def test_a_run_begins_with_what_is_trained_on_what(stopped):
    facts = dict(line.split(None, 1) for line in stopped.out.splitlines()[:6])
    data = "digits: 96 training, 40 validation (40 masks), 40 test (40 masks) samples"
    parameters = sum(p.numel() for p in weights(stopped.run_dir) if p.is_floating_point())
    assert facts == {
        "data": data,
        "classes": "10: 0, 1, 2, 3, 4, ...",
        "model": f"vit, vit_tiny_patch16_224: {parameters:,} trainable parameters",
        "training": "3 epochs, cpu, precision 32-true",
        "folder": str(stopped.run_dir),
        "watch": f"tensorboard --logdir '{stopped.run_dir}'",
    }


def weights(run_dir: Path) -> list[torch.Tensor]:
    state = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    return [value for name, value in state.items() if name.startswith("backbone.")]


def test_an_epoch_leaves_one_line_of_what_is_in_its_row(resumed, stopped):
    lines = re.findall(r"^epoch .*$", stopped.out, re.M)
    lines += re.findall(r"^epoch [\s\S]*? s$", resumed.screen, re.M)  # some are broken in two
    assert len(lines) == 3, resumed.screen
    for number, (line, row) in enumerate(zip(lines, rows(stopped.run_dir), strict=True)):
        line = " ".join(line.split())
        assert line.startswith(f"epoch {number}: loss {float(row['train/loss']):.3f}, val loss ")
        assert f"val accuracy {float(row['val/accuracy']):.3f}; relevance: class spec" in line
        assert f"mIoU {float(row['relevance/mIoU']):.3f}, " in line
        assert re.search(r"; \d+\.\d s$", line)


def test_a_run_ends_with_the_best_epoch_the_test_and_the_ways_on(stopped):
    *_, last = lines = stopped.out.splitlines()
    end = lines[next(i for i, line in enumerate(lines) if line.startswith("best")) :]
    assert end[0].split(None, 1)[1].startswith("epoch 0, val accuracy ")
    figures = "accuracy, accuracy top5, background control, background effect, loss, object only"
    assert end[1].split() == ["test", *figures.replace(",", "").split()]
    assert end[3].split() == ["class", "precision", "recall", "f1", "samples"]
    assert end[2].split()[:3] == ["all", "40", f"{stopped.metrics['test/accuracy']:.3f}"]
    assert f"checkpoint  {stopped.run_dir}/checkpoints/best.ckpt" in end
    assert f"pictures    {stopped.run_dir}/explanations" in end
    explain = f"python explain.py --checkpoint '{stopped.run_dir}' --input PICTURE"
    assert f"explain     {explain}" in end
    assert last.startswith("trainer.max_steps=5 ended the run at 56% of its training")
    carry_on = f"python train.py --resume '{stopped.run_dir}' trainer.max_steps=MORE"
    assert last.endswith(f"; to carry on: {carry_on}")


@pytest.mark.parametrize("words", LIBRARIES)
def test_libraries_say_nothing_that_a_user_can_do_nothing_about(stopped, resumed, words):
    assert words not in stopped.out + stopped.err + resumed.out


def test_a_warning_that_a_user_can_do_something_about_is_one_line(stopped):
    (line,) = stopped.err.splitlines()
    assert line.startswith("train.py: warning: The number of training batches (3) is smaller")


def test_a_resumed_run_says_where_it_carries_on(resumed):
    assert "\nresumed     at epoch 1, step 5\n" in resumed.screen
    assert "ended the run" not in resumed.screen


def test_the_bar_leaves_nothing_behind_in_a_terminal(resumed):
    assert "Epoch 1/2" in resumed.out and "Testing" in resumed.out and "━" in resumed.out
    assert not re.search("━|Epoch|Testing|Validation|Sanity", resumed.screen)
    assert "\nbest  " in resumed.screen


# ------------------------------------------------------------------------------ other endings


def test_a_run_of_no_epochs_ends_without_a_word_of_patience(tmp_path, capsys):
    run(tmp_path, "trainer.max_epochs=0", "trainer.limit_test_batches=0", "tracker=null")
    lines = capsys.readouterr().out.splitlines()
    assert "training    0 epochs, cpu, precision 32-true" in lines
    assert lines[-1] == "checkpoint  none"


def test_a_trial_says_that_nothing_is_kept(tmp_path, capsys):
    run(tmp_path / "run", "trainer.fast_dev_run=true", "tracker=null")
    printed = capsys.readouterr().out
    assert "\ntrial       1 step, of which nothing is kept\n" in printed
    assert printed.endswith("\ntrial       ended, and nothing is kept\n")
    assert not re.search("^(folder|watch|best|checkpoint|explain)", printed, re.M)


def test_an_epoch_without_validation_shows_what_it_has(tmp_path, capsys):
    options = ("trainer.max_epochs=1", "trainer.limit_val_batches=0", "tracker=null")
    run(tmp_path, *options, experiment="reviews")
    printed = capsys.readouterr().out
    assert re.search(r"^epoch 0: loss \d\.\d{3}; \d+\.\d s$", printed, re.M)
    assert not re.search("^(best|pictures)", printed, re.M)
    assert f"checkpoint  {tmp_path}/checkpoints/last.ckpt" in printed
    assert re.search(rf"^explain .* --checkpoint {tmp_path} --text '\w.*'$", printed, re.M)


# ------------------------------------------------------------------------------------- parts


def test_rationales_and_some_masks_are_counted(root, tmp_path):  # noqa: F811
    texts = DATAMODULES["reviews"](train_size=9, val_size=5, test_size=1, contrast_size=2)
    said = "9 training, 5 validation (5 rationales), 1 test (1 rationale) samples"
    assert samples_of(texts) == said
    images = folder(root)
    assert "mask" not in samples_of(images)
    assert images.example() == ["--input", images.test_dataset.samples[0][0]]


def test_the_rest_of_an_epoch_is_timed_from_where_it_is_resumed(monkeypatch):
    """When the epoch itself does not start."""
    said = Terminal(OmegaConf.create({"trainer": {}}))
    monkeypatch.setattr(time, "perf_counter", lambda: 100.0)
    said.on_train_start(None, None)
    assert said.started == 100.0


def test_the_names_of_classes_cannot_fill_the_terminal():
    data = SimpleNamespace(class_names=["a" * 1000, *map(str, range(1999))])
    assert classes_of(data) == f"2000: {'a' * 40}, 0, 1, 2, 3, ..."


def test_frozen_parameters_are_told():
    module = torch.nn.Linear(2, 3)
    module.backbone, module.kind, module.hparams = torch.nn.Identity(), "vit", {}
    assert model_of(module) == "vit, Identity: 9 trainable parameters"
    module.weight.requires_grad_(False)
    assert model_of(module) == "vit, Identity: 3 of 9 trainable parameters"


def test_figures_that_were_not_measured_are_left_out():
    assert figures_of({}) == "nothing was measured"
    assert figures_of({"relevance/seconds": 1.0, "relevance/token_f1": 0.25}) == (
        "relevance: token f1 0.250"
    )


def test_the_lowest_of_many_classes_are_in_the_table_and_all_in_the_file(capsys, tmp_path):
    names = [f"kind\n{number}" for number in range(13)]
    counts = [[60, number, 0, 40 + number, 100 + number] for number in range(12)]
    counts += [[0, 0, 9, 0, 0]]  # of which the test has none
    model = SimpleNamespace(tested=torch.tensor(counts), hparams=SimpleNamespace(class_names=names))
    terminal.console().print(class_table.class_table(class_table.classes_of(model)))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    f1 = 2 * 60 / (2 * 60 + 11 + 51)
    row = f"{60 / 71:.3f} {60 / 111:.3f} {f1:.3f} 111"
    assert lines[1].split() == ["kind", "11", *row.split()]
    assert len(lines) == 12 and lines[-1].startswith("the lowest 10 of 12 classes")
    class_table.write_classes(model, tmp_path / "classes.csv")
    with open(tmp_path / "classes.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["name"] for row in written] == names
    assert float(written[11]["f1"]) == pytest.approx(f1)
    assert written[12] == dict(name=names[12], samples="0", precision="", recall="", f1="")


def test_quiet_leaves_everything_as_it_was():
    names = ["lightning", "lightning.pytorch", "lightning.fabric"]

    def state() -> tuple:
        levels = [logging.getLogger(name).level for name in names]
        return warnings.filters[:], warnings.formatwarning, warnings.showwarning, levels

    before = state()
    with pytest.raises(KeyError), terminal.quiet("train.py"):
        assert state() != before
        raise KeyError
    assert state() == before


def test_a_line_is_printed_in_any_encoding():
    file = io.TextIOWrapper(io.BytesIO(), "ascii")
    terminal.say("caf\xe9\n\x1b[1m \udcff", file)
    assert file.buffer.getvalue() == b"caf\\xe9 \\x1b[1m \\udcff\n"


def test_the_first_process_alone_tells(capsys, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    terminal.tell("not this")
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    with terminal.quiet("train.py"):
        terminal.tell("a\nline")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "a line\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train.py", "model.lrr=1"],
        ["train.py", "export", "nowhere", "out", "--to", "timm"],
        ["explain.py", "--checkpoint", "nowhere", "--input", "a"],
    ],
)
def test_what_an_imported_module_warns_of_is_one_line(arguments, tmp_path):
    """Before anything else is imported."""
    (tmp_path / "warns.py").write_text("import warnings\nwarnings.warn('two\\nlines')\n")
    script, *rest = arguments
    command = [sys.executable, str(ROOT / script), *rest, "--import", "warns"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    warned, told = ended.stderr.splitlines()
    assert ended.returncode == 2 and told.startswith(f"{script}: ")
    assert warned == f"{script}: warning: two lines"
