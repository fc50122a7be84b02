"""What explain.py takes from a folder or a pattern, and what it says of the rest."""

import numpy as np
import pytest
from PIL import Image

from lightning_modules.data import folders
from lightning_modules.data.images.files import IMAGE_ENDINGS
from lightning_modules.explanations import inputs
from lightning_modules.modalities import Images, Texts
from lightning_modules.utils.errors import InputError
from tests.data.test_class_folders import leave_behind
from tests.helpers.samples import save

SOURCES = {"image": {"image": Images("image", {})}, "text": {"text": Texts("text", {})}}


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines = []
    monkeypatch.setattr(folders, "tell", lines.append)
    return lines


def names(tmp_path, *patterns, kind="image") -> list[str]:
    found = inputs.find_inputs([str(tmp_path / pattern) for pattern in patterns], [], SOURCES[kind])
    return [str(item.path.relative_to(tmp_path)) for item in found]


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "cat/b.JPG", "cat/c.gif"):
        save(tmp_path / name, Image.new("RGB", (9, 9), "red"))
    for name in ("notes.txt", "cat/more.txt"):
        (tmp_path / name).write_text("a text")
    for place in (tmp_path, tmp_path / "cat"):
        leave_behind(place)
    (tmp_path / ".hidden.txt").write_text("a text")
    return tmp_path


def test_a_folder_is_its_images_and_the_rest_is_named(folder, said):
    assert names(folder, ".") == ["a.png", "cat/b.JPG", "cat/c.gif"]
    (line,) = said
    assert line.startswith(f"{folder}: left out 2 files: notes.txt, cat/more.txt; taken are images")


def test_a_folder_is_its_texts_and_the_rest_is_named(folder, said):
    assert names(folder, ".", kind="text") == ["cat/more.txt", "notes.txt"]
    (line,) = said
    assert line.startswith(f"{folder}: left out 3 files: a.png, cat/b.JPG, cat/c.gif; taken are te")


def test_a_pattern_does_not_find_what_is_hidden(folder, said):
    assert names(folder, "**/*.png") == ["a.png"]
    assert names(folder, "cat/*") == ["cat/b.JPG", "cat/c.gif", "cat/more.txt"]
    assert not said  # a pattern is as it is given


def test_what_is_named_itself_is_taken(folder):
    assert names(folder, "._0.png", ".*.png", "__MACOSX/*.png", "Thumbs.db") == [
        *("._0.png", "__MACOSX/0.png", "Thumbs.db"),
    ]


def test_a_folder_with_hidden_files_alone_has_no_input(tmp_path):
    leave_behind(tmp_path)
    for kind, called in (("image", "image"), ("text", "text")):
        with pytest.raises(InputError, match=f"no {called} is there; accepted: a file, a folder"):
            inputs.find_inputs([str(tmp_path)], [], SOURCES[kind])


def test_a_folder_may_lie_in_a_hidden_one(tmp_path):
    save(tmp_path / ".cache" / "a.png", np.zeros((9, 9), np.uint8))
    assert names(tmp_path, ".cache") == [".cache/a.png"]


def test_every_image_is_told_from_a_text(tmp_path):
    for ending in IMAGE_ENDINGS:
        (tmp_path / f"a{ending}").write_bytes(b"")
        with pytest.raises(InputError, match="the classifier is of texts, this is an image"):
            inputs.find_inputs([str(tmp_path / f"a{ending}")], [], SOURCES["text"])
