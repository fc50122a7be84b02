"""The version stands in one place of the code, and the citation names it."""

import re
from pathlib import Path

import relprop

ROOT = Path(__file__).parents[2]


def test_the_citation_names_the_version_of_the_code():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, re.M)[1] == relprop.__version__
    assert "version = attr: relprop.__version__" in (ROOT / "setup.cfg").read_text()
