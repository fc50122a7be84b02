"""Methods compared on the same samples, and the marks of what differs and of what is best."""

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

import explain
from lightning_modules.metrics import SampledMetric
from lightning_modules.metrics import Segmentation as SegmentationMetric
from lightning_modules.protocols import compared, scores_of
from lightning_modules.protocols.base import Column
from lightning_modules.protocols.report import notes, percent, table
from lightning_modules.protocols.scoring import compared_with
from tests.helpers.runs import ONE_EPOCH

CHANCE_AHEAD = {"lrp": 0.5, "rollout": 0.2, "constant": 0.9, "random": 0.7}


class Mean(SampledMetric):
    def update(self, values):
        self.rows.append(values[:, None].double())

    def score(self, rows):
        return {"mean": rows.mean(dim=0)[0]}


class Protocol:
    columns = [Column("score", "mean", better="higher")]
    paper_data = ""
    of_model = False
    curves = {}


def mean_of(values) -> dict[str, Mean]:
    metric = Mean()
    for value in values:  # as batches of one
        metric.update(value[None])
    return {"": metric}


@pytest.fixture
def close():
    """Methods whose differences are small and sure, under noise that they share."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(80, generator=generator, dtype=torch.float64)
    small = 0.05 * torch.randn(80, 3, generator=generator, dtype=torch.float64)
    return {
        "a": mean_of(shared),
        "b": mean_of(shared + 0.1 + small[:, 0]),
        "c": mean_of(shared + small[:, 1]),
        "d": mean_of(shared + 0.1 + small[:, 2]),
    }


def test_pairs_show_an_order_that_single_intervals_hide(close):
    a, b, c, _ = compared(close, "a", Protocol.columns)
    assert a.low < b.low < a.high < b.high  # each interval alone says nothing
    assert b.differs and b.difference_low > 0 and not c.differs
    assert a.difference is None and not a.differs
    assert b.difference == pytest.approx(b.value - a.value)


def test_a_difference_is_that_of_a_loop_over_draws():
    """Of scores that are no means, as mIoU, too: both methods are scored on the same draw."""
    generator = torch.Generator().manual_seed(1)
    masks = torch.rand(12, 4, 4, generator=generator) > 0.5
    maps = torch.rand(2, 12, 4, 4, generator=generator, dtype=torch.float64)
    metrics = [SegmentationMetric(), SegmentationMetric()]
    for metric, of_method in zip(metrics, maps, strict=True):
        for start in (0, 5, 9):
            part = slice(start, {0: 5, 5: 9, 9: 12}[start])
            metric.update(of_method[part], masks[part])
    found = compared({"a": {"": metrics[0]}, "b": {"": metrics[1]}}, "a")
    drawn, generator = [], torch.Generator().manual_seed(0)
    for _ in range(1000):
        chosen, values = torch.randint(12, (12,), generator=generator), []
        for of_method in metrics:
            metric = SegmentationMetric()
            metric.rows = [of_method.in_order()[i][None] for i in chosen.tolist()]
            values.append(metric.compute()["mIoU"])
        drawn.append(float(values[1] - values[0]))
    ends = torch.tensor(drawn, dtype=torch.float64).quantile(
        torch.tensor([0.025, 0.975], dtype=torch.float64)
    )
    (ours,) = (x for x in found if (x.method, x.name) == ("b", "mIoU"))
    assert [ours.difference_low, ours.difference_high] == pytest.approx(ends.tolist(), abs=1e-12)
    assert found[0] == scores_of("a", {"": metrics[0]})[0]  # the method itself as ever


def test_the_interval_of_a_difference_covers_the_truth_as_often_as_it_says():
    generator, covered = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        shared, own = torch.randn(2, 60, generator=generator, dtype=torch.float64)
        _, b = compared({"a": mean_of(shared), "b": mean_of(shared + 0.3 * own)}, "a")
        covered += not b.differs
    assert 0.90 <= covered / 200 <= 0.98


@pytest.mark.parametrize(
    ("better", "expected"),
    [
        ("higher", {"b": "best", "d": "not clearly worse"}),
        ("lower", {"a": "not clearly worse", "c": "best"}),
        (None, {}),
    ],
)
def test_the_best_is_marked_and_what_is_not_clearly_worse(close, better, expected):
    found = compared(close, "a", [Column("score", "mean", better=better)])
    means = {x.method: x.value for x in found}
    standings = {x.method: x.standing for x in found if x.standing}
    assert standings.keys() == expected.keys()
    if better:
        best = (max if better == "higher" else min)(means, key=means.get)
        assert [m for m, standing in standings.items() if standing == "best"] == [best]


def test_chance_is_neither_best_nor_what_methods_are_measured_by():
    methods = {name: mean_of(torch.full((50,), x)) for name, x in CHANCE_AHEAD.items()}
    found = compared(methods, "lrp", [Column("score", "mean", better="higher")])
    assert {x.method: x.standing for x in found} == dict.fromkeys(methods) | {"lrp": "best"}


def test_methods_of_other_samples_are_not_compared():
    found = compared(
        {"a": mean_of(torch.arange(4.0)), "b": mean_of(torch.arange(5.0))}, "a", Protocol.columns
    )
    assert [x.difference for x in found] == [None, None]


def test_the_table_has_marks_and_says_what_they_are_and_of_how_many(close):
    found = compared(close, "a", Protocol.columns)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(Protocol, found, "title", "digits"), *notes(Protocol, found, "a"), sep="\n")
    lines = {line.split()[0]: line for line in console.export_text().splitlines() if line.strip()}
    assert "score ↑" in lines["method"]
    assert "*" in lines["b"] and "*" not in lines["a"] and "*" not in lines["c"]
    assert "●" in lines["b"] + lines["d"] and "○" in lines["b"] + lines["d"]
    assert "not as a:" in lines["*"] and "3 comparisons, 2 of them clear" in lines["*"]


def test_the_method_compared_with():
    assert compared_with(None, ["lrp", "transformer_attribution"]) == "transformer_attribution"
    assert compared_with(None, ["lrp", "rollout"]) == "lrp"
    assert compared_with("rollout", ["lrp", "rollout"]) == "rollout"
    assert compared_with("rollout", ["lrp", "random"]) == "lrp"  # it does not apply


# ----------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def digits(trained) -> Path:
    return trained(*ONE_EPOCH)


def evaluate(run_dir: Path, *arguments: str) -> None:
    explain.main(["evaluate", "--checkpoint", str(run_dir), *arguments])


@pytest.mark.usefixtures("few_draws")
def test_a_comparison_is_in_the_table_and_in_all_files(digits, tmp_path, capsys):
    few = ["--protocol", "segmentation", "--method", "rollout", "lrp", "random", "--limit", "6"]
    evaluate(digits, *few, "--output", str(tmp_path), "--compare", "random")
    assert "not as random" in capsys.readouterr().out
    about = json.loads((tmp_path / "scores.json").read_text())
    assert about["compared_with"] == "random"
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:6] == ["method", "name", "x", "value", "low", "high"]
    for row, score in zip(rows, about["scores"], strict=True):
        assert (row["difference"] == "") == (row["method"] == "random")
        assert row["standing"] == (score["standing"] or "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--protocol", "sanity", "--method", "lrp", "--compare", "rollout"], "accepted: a method"),
        (["--protocol", "background", "--compare", "rollout"], "accepted: no --compare"),
    ],
)
def test_what_cannot_be_compared_is_told(digits, arguments, said, capsys):
    with pytest.raises(SystemExit) as exit_:
        evaluate(digits, *arguments)
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


def test_what_has_exploded_is_told_by_its_magnitude():
    assert percent(0.1234) == "12.3" and percent(-9.0) == "-900.0"
    assert percent(195890256.0) == "2e+10"
