"""Many inputs: what memory holds of them, and calls of explain.py that go on after a cut."""

import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import explain
from lightning_modules.explanations import batches, files, many
from lightning_modules.explanations.spool import KEPT
from lightning_modules.utils.errors import InputError
from tests.helpers.runs import ONE_EPOCH


@pytest.fixture(scope="module")
def digits(trained) -> Path:
    return trained(*ONE_EPOCH)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """20 pictures and a file that is none, in batches of 8: the last has 5."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(20):
        picture = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{number:02d}.png")
    (folder / "05-broken.png").write_text("no picture")
    return folder


@pytest.fixture
def call(digits, pictures, tmp_path, monkeypatch):
    """explain.py on the pictures, one of which cannot be read, into a folder; ``lrp`` refuses."""
    plain = batches.explain_by

    def explain_by(module, trace, batch, places, method, options):
        if method == "lrp":
            raise InputError("--method lrp: refused")
        return plain(module, trace, batch, places, method, options)

    monkeypatch.setattr(batches, "explain_by", explain_by)

    def call(folder: str, *more: str, method=("rollout", "lrp"), code=1) -> Path:
        words = ["--checkpoint", str(digits), "--input", str(pictures), "--method", *method]
        words += ["--format", "png,html,npz,json", "--output", str(tmp_path / folder), *more]
        with pytest.raises(SystemExit) as exit_:
            explain.main(words)
        assert exit_.value.code == code
        return tmp_path / folder

    return call


@pytest.fixture
def explained(monkeypatch):
    """The numbers of the batches that are explained; Ctrl-C where one is ``explained.until``."""

    class Numbers(list):
        until = None

    numbers, plain = Numbers(), many.explain_own

    def explain_own(call, batches, number, spool):
        if number == numbers.until:
            raise KeyboardInterrupt
        numbers.append(number)
        return plain(call, batches, number, spool)

    monkeypatch.setattr(many, "explain_own", explain_own)
    return numbers


@pytest.fixture
def cut(call, explained):
    """A call that was stopped after two of its three batches."""
    explained.until = 2
    with pytest.raises(KeyboardInterrupt):
        call("cut", code=None)
    explained.until = None


def content(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_a_call_that_was_cut_off_goes_on_to_the_same_files(cut, call, explained, capsys):
    """The method that is left out, and the input that cannot be read, are told at its end."""
    assert explained == [0, 1]
    folder = call("cut", "--resume")
    assert explained == [0, 1, 2]
    said = capsys.readouterr()
    assert "20 of 21 explained" in said.out
    assert said.err.count("left out: ") == 1 and "05-broken.png" in said.err
    whole = call("whole")
    assert content(folder) == content(whole) and len(content(whole)) == 23
    assert not (folder / KEPT).exists()


def test_without_resume_a_call_begins_anew(cut, call, explained):
    call("cut")
    assert explained == [0, 1, 0, 1, 2]


def test_resume_begins_where_nothing_is_kept(call, explained):
    call("new", "--resume")
    assert explained == [0, 1, 2]


def add_picture(pictures: Path) -> None:
    Image.new("RGB", (8, 8)).save(pictures / "20.png")


def change_picture(pictures: Path) -> None:
    Image.new("RGB", (8, 8)).save(pictures / "03.png")


@pytest.mark.parametrize(
    "more, change, told",
    [
        (["--target", "3"], None, "other target, ['predicted']; accepted: the same, or a new"),
        (["start_layer=1"], None, "other options, {}; accepted"),
        (["--against", "3"], None, "other against, None; accepted"),
        ([], add_picture, "other inputs; accepted"),
        ([], change_picture, "other inputs; accepted"),
    ],
)
def test_another_call_is_refused_and_what_is_kept_stays(
    cut, call, pictures, explained, capsys, more, change, told
):
    if change:
        change(pictures)
    before = content(pictures.parent / "cut")
    call("cut", "--resume", *more, code=2)
    error = capsys.readouterr().err
    assert f"--resume: what is begun in {pictures.parent / 'cut'} has {told}" in error
    assert explained == [0, 1]
    assert content(pictures.parent / "cut") == before


@pytest.mark.parametrize("name, within", [("about.pt", b"predicted"), ("000001.pt", b"relevance")])
def test_what_is_kept_is_data_and_whole(cut, call, tmp_path, capsys, name, within):
    path = tmp_path / "cut" / KEPT / name
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(within)] ^= 1
    path.write_bytes(damaged)
    call("cut", "--resume", code=2)
    (error,) = capsys.readouterr().err.splitlines()
    assert str(path) in error and "start anew, without --resume" in error


def test_memory_holds_the_results_of_a_batch(call, monkeypatch):
    """While files are written, too."""
    alive, most = weakref.WeakSet(), []
    plain = files.Entry.__init__

    def made(self, *arguments, **named):
        plain(self, *arguments, **named)
        alive.add(self)
        most.append(len(alive))

    monkeypatch.setattr(files.Entry, "__init__", made)
    monkeypatch.setattr(files.Entry, "__hash__", object.__hash__)
    monkeypatch.setattr("lightning_modules.explanations.page.ALONE", 3)
    call("out")
    assert len(most) == 20 * 5  # made, and read for the page, the npz (twice) and the JSON
    assert max(most) <= 16


def test_where_nothing_can_be_explained_no_folder_is_left(call, pictures, tmp_path):
    call("out", method=["lrp"], code=2)
    for path in pictures.iterdir():
        path.write_text("no picture")
    call("out", code=2)
    assert not (tmp_path / "out").exists()
