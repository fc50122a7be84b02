"""What a stranger's model takes beside inputs is an option of explain.py."""

import sys

import pytest

from configs.explain_arguments import parse_explain
from configs.signatures import Declared, about
from lightning_modules.models.beside import BESIDE, take_beside
from lightning_modules.utils import cli
from lightning_modules.utils.errors import InputError

MODULE = '''
from lightning_modules.models.beside import BESIDE
from lightning_modules.utils.errors import InputError

@BESIDE.register("class_table")
def take_table(module, path):
    """what the classes are called elsewhere

    More of it.
    """
    if module.kind != "own":
        raise InputError(f"--class-table {path}: of another kind; accepted: own")
    module.table = path
    return f"digest of {path}"
'''


class Own:
    kind, table = "own", None

    def check_complete(self) -> None:
        if self.table is None:
            raise InputError("--class-table: none; accepted: a table")


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "my_beside.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import lightning_modules.models  # noqa: F401 - what has been imported is asked itself

    yield "my_beside"
    BESIDE.pop("class_table", None)
    sys.modules.pop("my_beside", None)


def test_an_own_option_is_parsed_once_its_module_is_imported(own, capsys):
    argv = ["--import", own, "--checkpoint", "run", "--input", "a", "--class-table", "t", "eps=0"]
    with pytest.raises(SystemExit, match="2"):
        parse_explain(argv, None)
    assert "--class-table" in capsys.readouterr().err
    cli.import_modules(cli.imports_in(argv))
    arguments = parse_explain(argv, None)
    assert arguments.beside == {"class_table": "t"} and arguments.overrides == ["eps=0"]
    assert about(BESIDE, "class_table") == "what the classes are called elsewhere"
    assert parse_explain(argv[2:6], None).beside == {}


def test_modules_are_found_among_arguments_that_are_not_parsed():
    argv = ["--input", "a", "--import", "one", "--import=two.three", "--device", "cpu"]
    assert cli.imports_in(argv) == ["one", "two.three"]


def test_a_model_takes_what_is_given_or_says_what_it_needs(own):
    cli.import_modules([own])
    module = Own()
    with pytest.raises(InputError, match="--class-table: none; accepted: a table"):
        take_beside(module, {})
    assert take_beside(module, {"class_table": "t"}) == {"class_table": "digest of t"}
    assert module.table == "t"
    module.kind = "vit"
    with pytest.raises(InputError, match="--class-table u: of another kind"):
        take_beside(module, {"class_table": "u"})


def test_help_is_read_from_the_source_as_long_as_nothing_is_imported():
    declared = Declared("lightning_modules.models", "BESIDE.register")
    for name in declared:
        assert about(declared, name) and "\n" not in about(declared, name)
