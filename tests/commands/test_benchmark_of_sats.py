"""The table of what a teacher keeps, from rows made by hand."""

import json

import pytest

from benchmarks import sats


@pytest.fixture
def trainings(monkeypatch):
    """Which runs are trained, instead of training them; figures that tell arm, weight and seed."""
    done = []

    def trained(config, seed, folder, *options):
        done.append(("base", seed))
        folder.mkdir(parents=True)
        (folder / "metrics.json").touch()

    def second_step(arm, weight, seed, base, folder, given):
        done.append((arm and arm.weight, weight, seed))
        mean = 0.5 + weight / 100 + seed / 1000 * (weight > 1)
        return dict.fromkeys(sats.FIGURES, mean)

    monkeypatch.setattr(sats, "trained", trained)
    monkeypatch.setattr(sats, "second_step", second_step)
    return done


def test_each_weight_is_compared_with_one_of_the_logits_seed_by_seed(trainings, tmp_path, capsys):
    sats.measure([0, 1], ["fine-tuning", "logits"], tmp_path, [])
    assert trainings == [
        ("base", 0),
        *((None, 0.0, 0), ("logits", 0.3, 0), ("logits", 1.0, 0), ("logits", 3.0, 0)),
        ("base", 1),
        *((None, 0.0, 1), ("logits", 0.3, 1), ("logits", 1.0, 1), ("logits", 3.0, 1)),
    ]
    *_, tuned, least, baseline, most = capsys.readouterr().out.splitlines()
    assert tuned.startswith("| fine-tuning |  | 2 | 0.500 ± 0.000 |")
    assert tuned.endswith("| -1.0 | -1.0, -1.0 |") and "| logits | 0.3 | 2 |" in least
    assert baseline.endswith("| +0.0 | +0.0, +0.0 |")
    assert most.endswith("+2.0, +2.1 |") and "(" in most
    assert (tmp_path / "sats.png").stat().st_size > 1000


def test_a_second_call_goes_on(trainings, tmp_path):
    sats.measure([0], ["fine-tuning"], tmp_path, [])
    trainings.clear()
    sats.measure([0], ["fine-tuning", "both"], tmp_path, [])
    assert trainings == [("attention", weight, 0) for weight in sats.TRANSFER]
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["arm"] for row in rows] == ["fine-tuning", *["both"] * 3]
    with pytest.raises(SystemExit, match="of other --options"):
        sats.measure([0], ["both"], tmp_path, ["data.batch_size=2"])
