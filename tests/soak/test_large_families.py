"""Families whose small models are large, and how many of all are explained. pytest tests/soak"""

import pytest

from benchmarks.families import ENTRIES, checks
from tests.relprop.test_families import LARGE, check_family, families_of_timm

OUTCOMES: dict[str, str] = {}


@pytest.mark.parametrize("name", sorted(LARGE & ENTRIES.keys()))
def test_each_large_family_is_explained_rightly_or_refused_in_words(name):
    OUTCOMES[name] = check_family(name).outcome


def test_nine_of_ten_families_of_timm_are_explained():
    for name in families_of_timm():
        if name not in OUTCOMES:
            OUTCOMES[name] = checks.explained(ENTRIES[name].make()).outcome
    refused = [name for name in families_of_timm() if OUTCOMES[name] != "ok"]
    assert len(refused) <= 0.1 * len(families_of_timm()), refused
