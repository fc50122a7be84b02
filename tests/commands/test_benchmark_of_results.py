"""The tables and ranks of docs/results.md, of scores made by hand."""

import json

import pytest

from benchmarks.results import LEADING, Evaluation, difference, draw, print_differences, print_table
from lightning_modules.protocols import PROTOCOLS


@pytest.fixture
def folder(tmp_path):
    """The scores of three methods by two protocols."""

    def write(protocol: str, values: dict[str, dict[str, float]]) -> Evaluation:
        scores = []
        for method, of_method in values.items():
            for name, value in of_method.items():
                less = value - values["lrp"][name]
                scores.append(
                    {"method": method, "name": name, "x": None, "value": value}
                    | {"low": value - 0.02, "high": value + 0.02, "difference": less}
                    | {"difference_low": less - 0.01, "difference_high": less + 0.01}
                )
        of_curve = {**scores[0], "x": 0.5, "value": 9.0}
        place = tmp_path / f"digits-{protocol}"
        place.mkdir()
        content = {"samples": 7, "compared_with": "lrp", "scores": [*scores, of_curve]}
        (place / "scores.json").write_text(json.dumps(content))
        return Evaluation(place)

    return write


def test_methods_are_ranked_by_what_is_better(folder):
    values = {"lrp": 0.5, "rollout": 0.1, "random": 0.9}
    lower = folder("sanity", {name: {"cascade/mean": value} for name, value in values.items()})
    assert lower.data == "digits" and lower.samples == 7
    assert lower.ranks(lower.leading[0]) == {"rollout": 1, "lrp": 2, "random": 3}
    higher = folder("specificity", {x: {"class_specificity": v} for x, v in values.items()})
    assert higher.ranks(higher.leading[0]) == {"random": 1, "lrp": 2, "rollout": 3}


def test_a_difference_is_of_how_far_a_method_is_ahead(folder):
    found = folder("segmentation", {"lrp": {"mIoU": 0.5}, "rollout": {"mIoU": 0.495}})
    score = found.scores["rollout", "mIoU", None]
    assert difference(score, "higher") == "-0.5 [-1.5, 0.5]"
    values = {"lrp": {"class_specificity": 0.5}, "rollout": {"class_specificity": 0.4}}
    score = folder("specificity", values).scores["rollout", "class_specificity", None]
    assert difference(score, "lower") == "**+10.0 [9.0, 11.0]**"
    assert difference(None, "lower") == "-"


def test_every_leading_score_is_a_column_of_its_protocol():
    for protocol, names in LEADING.items():
        assert set(names) <= {column.name for column in PROTOCOLS[protocol].columns}


def test_tables_and_picture_have_all_methods(folder, tmp_path, capsys):
    values = {"lrp": {"mIoU": 0.5}, "rollout": {"mIoU": 0.7}, "random": {"mIoU": 0.1}}
    found = folder("segmentation", values)
    print_table(found)
    assert "| `rollout` | 70.0 ±2.0\\* |" in capsys.readouterr().out
    print_differences([found])
    assert "| `random` | **-40.0 [-41.0, -39.0]** |" in capsys.readouterr().out
    draw([found], tmp_path / "ranks.png")
    assert (tmp_path / "ranks.png").read_bytes().startswith(b"\x89PNG")
