"""The tables of what training on explanations brings, from rows made by hand."""

import json

import pytest
import scipy.stats

from benchmarks import arms
from benchmarks.arms_report import MAP, chosen_weight, interval, spread


def row(arm: str, weight: float, seed: int, score: float, shift: float = 0.5, **more) -> dict:
    made = {"arm": arm, "weight": weight, "seed": seed, "options": [], "shift": shift}
    return made | {"val/object_only": score, MAP: 0.3, "changed by marker": 0.1} | more


def test_the_weight_is_that_of_the_best_mean_of_the_choosing_seeds():
    rows = [row("default", 0.3, 0, 0.5), row("default", 0.3, 1, 0.7), row("default", 1.0, 0, 0.9)]
    rows += [row("default", 1.0, 1, 0.4), row("default", 1.0, 2, 0.0), row("exact", 3.0, 0, 1.0)]
    assert chosen_weight(rows, "default", [0, 1]) == 1.0
    assert chosen_weight(rows, "default", [0, 1, 2]) == 0.3


def test_spreads_and_intervals_are_those_of_scipy():
    values = [1.0, 2.5, -0.5, 4.0]
    test = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval(values) == f"+1.8 ({test.low:+.1f} to {test.high:+.1f})"
    assert spread(values) == "1.750 ± 1.936" and spread([2.0]) == "2.000 ± 0.000"


@pytest.fixture
def trainings(monkeypatch):
    """Which arms, weights and seeds are trained, instead of training them."""
    done = []

    def second_stage(kind, seed, base, folder, arm, weight, given):
        done.append((arm and tuple(arm.options.values()), weight, seed))
        return weight

    scores = {0.0: 0.1, 0.3: 0.2, 1.0: 0.9, 3.0: 0.3}
    monkeypatch.setattr(arms, "trained", lambda *args: 0.0)
    monkeypatch.setattr(arms, "second_stage", second_stage)
    made = {"shift": 0.5, MAP: 0.3, "changed by marker": 0.1}
    monkeypatch.setattr(arms, "figures", lambda weight: made | {"val/object_only": scores[weight]})
    return done


def test_the_chosen_weight_is_that_of_all_seeds_and_of_the_control(trainings, tmp_path, capsys):
    wanted = ("digits", [0, 1, 2], ["plain", "default", "shuffled"], [0.3, 1.0, 3.0])
    arms.measure(*wanted, tmp_path, [])
    assert [x for x in trainings if x[2] == 2] == [(None, 0, 2), ((), 1, 2), (("shuffled",), 1, 2)]
    assert {weight for options, weight, _ in trainings if options == ("shuffled",)} == {1}
    assert "| shuffled | 1 | 3 |" in capsys.readouterr().out
    count = len(trainings)
    arms.measure(*wanted, tmp_path, [])  # goes on where it was: with nothing
    assert len(trainings) == count
    rows = [json.loads(x) for x in (tmp_path / "digits.jsonl").read_text().splitlines()]
    assert len(rows) == 3 + count
    with pytest.raises(SystemExit, match="other --options; accepted: another --output"):
        arms.measure(*wanted, tmp_path, ["data.marker.share=1"])
