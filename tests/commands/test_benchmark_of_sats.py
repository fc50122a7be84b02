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
        found = dict.fromkeys(sats.FIGURES, 0.9 if weight == 0.3 else mean)
        return found | {
            "val mean": 0.1 if weight in (0.3, 5.0) and arm.weight == "logits" else mean
        }

    monkeypatch.setattr(sats, "trained", trained)
    monkeypatch.setattr(sats, "second_step", second_step)
    return done


def test_each_arm_is_compared_at_its_best_weight_seed_by_seed(trainings, tmp_path, capsys):
    sats.measure([0, 1], ["fine-tuning", "logits", "both"], tmp_path, [])
    of_seed = [(None, 0.0), *(("logits", x) for x in (0.3, 1.0, 2.0, 3.0, 5.0))]
    of_seed += [("attention", x) for x in sats.BESIDE]
    for seed, done in ((0, trainings[:9]), (1, trainings[9:])):
        assert done == [("base", seed), *((*x, seed) for x in of_seed)]
    *every, _, _, _, tuned, both = capsys.readouterr().out.splitlines()
    assert every[2].startswith("| fine-tuning |  | 2 | 0.500 ± 0.000 |")
    assert "| logits | 0.3 | 2 |" in every[3]  # best on the test split, and not on validation
    assert "| logits | 3 (chosen) | 2 |" in every[6] and "| both | 20 (chosen) | 2 |" in every[9]
    assert tuned.startswith("| fine-tuning | 0 |") and tuned.endswith("| -3.0, -3.1 |")
    assert both.startswith("| both | 20 |") and both.endswith("| +17.0, +17.0 |")
    assert (tmp_path / "sats.png").stat().st_size > 1000


def test_a_second_call_goes_on(trainings, tmp_path):
    sats.measure([0], ["fine-tuning"], tmp_path, [])
    trainings.clear()
    sats.measure([0], ["fine-tuning", "both"], tmp_path, [])
    assert trainings == [("attention", weight, 0) for weight in sats.BESIDE]
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["arm"] for row in rows] == ["fine-tuning", *["both"] * 2]
    with pytest.raises(SystemExit, match="of other --options"):
        sats.measure([0], ["both"], tmp_path, ["data.batch_size=2"])
