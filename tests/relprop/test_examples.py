"""The scripts of docs/examples run, from training to the picture."""

import importlib
from pathlib import Path

import pytest
from PIL import Image

FOLDER = Path(__file__).parent.parent.parent / "docs" / "examples"


@pytest.mark.parametrize("name", ["pair", "caption", "query"])
def test_an_example_draws_its_picture(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    importlib.import_module(name).main(steps=1, images=tmp_path)
    with Image.open(tmp_path / f"{name}.png") as picture:
        assert picture.width > picture.height / 2 > 0
