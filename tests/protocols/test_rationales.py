"""Token F1 and the command that scores methods with it."""

import csv
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import explain
from lightning_modules.metrics import SampledMetric, TokenF1
from lightning_modules.protocols import scored_methods
from tests.helpers.runs import ONE_EPOCH

REFERENCE = Path(__file__).parents[1] / "reference" / "metrics.json"


def test_published_scores_are_met_exactly():
    reference = json.loads(REFERENCE.read_text())["rationale"]
    metric = TokenF1(ks=[2, 4, 8])
    for document in reference["documents"]:
        rationale = torch.zeros(1, document["length"]).bool()
        for start, end in document["evidence_spans"]:
            rationale[:, start:end] = True
        metric.update(torch.tensor([document["scores"]]).double(), rationale)
    ours = metric.compute()
    for i, k in enumerate(metric.places):
        for average in ("micro", "macro"):
            theirs = reference["token_scores"][f"top_{k}"][f"instance_{average}"]
            for name, short in (("precision", "p"), ("recall", "r"), ("f1", "f1")):
                # Exactly: but for the order in which floating-point numbers are added.
                assert float(ours[f"{average}_{name}"][i]) == pytest.approx(
                    theirs[short], rel=1e-15, abs=1e-15
                )


def slow_f1(scores: list[float], rationale: list[bool], k: int) -> float:
    """From the definition: 2 P R / (P + R) of the set of the k highest words."""
    chosen = set(sorted(range(len(scores)), key=lambda i: -scores[i])[:k])
    wanted = {i for i, is_wanted in enumerate(rationale) if is_wanted}
    precision = len(chosen & wanted) / len(chosen)
    recall = len(chosen & wanted) / len(wanted)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 1), st.booleans()), min_size=1), st.integers(1, 12))
def test_f1_is_that_of_the_definition(words, k):
    scores, rationale = zip(*words, strict=True)
    metric = TokenF1(ks=[k])
    if any(rationale):
        padded = torch.tensor([[*scores, 9.0]], dtype=torch.float64)  # padding, that looks relevant
        seen = torch.tensor([[True] * len(scores) + [False]])
        metric.update(padded, torch.tensor([[*rationale, False]]), seen)
        assert metric.compute()["macro_f1"].item() == pytest.approx(slow_f1(scores, rationale, k))


def test_a_word_that_was_cut_off_is_missed_and_never_chosen():
    metric = TokenF1(ks=[2])
    metric.update(
        torch.tensor([[0.5, 0.0, 0.0]]),
        torch.tensor([[True, False, True]]),
        torch.tensor([[True, True, False]]),
    )
    scores = metric.compute()
    assert scores["micro_precision"].item() == scores["micro_recall"].item() == 0.5


def test_as_many_words_as_each_texts_rationale_has():
    scores = torch.tensor([[0.9, 0.1, 0.8, 0.2], [0.5, 0.6, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0]])
    seen = torch.tensor([[True] * 4, [True, True, False, False], [True] * 4])
    rationale = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]).bool()
    metric = TokenF1(None)
    metric.update(scores, rationale, seen)
    # One of two, then one of one (the unseen words cannot be chosen); the last has no rationale.
    assert metric.compute()["macro_f1"].item() == pytest.approx((0.5 + 1) / 2)
    metric = TokenF1(None)
    metric.update(scores[:1], torch.tensor([[1, 0, 1, 1]]), torch.tensor([[True] + [False] * 3]))
    assert metric.compute()["macro_f1"].item() == pytest.approx(0.5)  # one chosen, of three


def test_no_text_with_a_rationale_is_no_score():
    metric = TokenF1(None)
    metric.update(torch.tensor([[2.0, 1.0]]), torch.zeros(1, 2).bool())
    assert metric.compute()["macro_f1"].isnan()


def test_texts_without_a_rationale_are_left_out():
    metric = TokenF1(ks=[1])
    metric.update(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([[1, 0], [0, 0]]))
    assert metric.compute()["macro_f1"].item() == 1.0


class Mean(SampledMetric):
    def update(self, values):
        self.rows.append(values[:, None].double())

    def score(self, rows):
        return {"mean": rows.mean(dim=0)}


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Of 200 data sets of normal numbers with mean 0, about 95% have an interval around 0."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(200):
        metric = Mean()
        metric.update(torch.randn(60, generator=generator))
        low, high = metric.intervals(draws=300)["mean"]
        covered += bool(low <= 0 <= high)
    assert 0.90 <= covered / 200 <= 0.98


# ----------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def run_dir(trained) -> Path:
    return trained(*ONE_EPOCH, experiment="reviews")


def evaluate(run_dir: Path, *arguments: str) -> None:
    explain.main(["evaluate", "--checkpoint", str(run_dir), "--protocol", "rationales", *arguments])


@pytest.mark.usefixtures("few_draws")
def test_every_method_is_scored(run_dir, tmp_path, capsys):
    evaluate(run_dir, "--limit", "10", "--output", str(tmp_path))
    printed = capsys.readouterr().out
    of_all = {x for x, m in scored_methods().items() if not (m.diagnosis or m.pooled)}
    assert all(method in printed for method in of_all)
    about = json.loads((tmp_path / "scores.json").read_text())
    assert about["samples"] == 10 and about["data"]["kind"] == "reviews"
    with open(tmp_path / "scores.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert {row["method"] for row in table} == of_all
    for row, score in zip(table, about["scores"], strict=True):
        assert float(row["value"]) == score["value"]
        least = -1 if "faithfulness" in score["name"] else 0
        assert least <= score["low"] <= score["high"] <= 1
    assert (tmp_path / "scores.png").stat().st_size > 10_000


@pytest.mark.usefixtures("few_draws")
def test_scores_do_not_depend_on_the_batch(run_dir, tmp_path):
    """Nor does the throw of the die: it is of the sample."""
    for size in ("3", "20"):
        evaluate(
            run_dir,
            *("--limit", "20", "--method", "random", "lrp", f"data.batch_size={size}"),
            *("--output", str(tmp_path / size)),
        )
    a, b = (json.loads((tmp_path / size / "scores.json").read_text()) for size in ("3", "20"))
    assert a["scores"] == b["scores"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--method", "lpr"], ["lpr", "transformer_attribution", "random"]),
        (["--limit", "0"], ["--limit 0", "1 or more"]),
        (["--limit", "many"], ["--limit", "many"]),
        (["start_layer=9"], ["start_layer", "9", "0 to 1"]),
        (["start_layr=1"], ["start_layr", "start_layer"]),
        (["rules=mine"], ["mine", '"paper" or "lrp"']),
        (["data.batch_size=0"], ["data.batch_size: 0", "at least 1"]),
        (["--checkpoint", "nowhere"], ["nowhere", "best.ckpt"]),
        (["--checkpoint", "README.md"], ["README.md", "train.py"]),
        (["--protocol", "vibes"], ["vibes", "rationales"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run_dir, arguments, named, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        evaluate(run_dir, "--output", str(tmp_path), *arguments)
    assert exit_.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("explain.py: ")
    for word in named:
        assert word in message
