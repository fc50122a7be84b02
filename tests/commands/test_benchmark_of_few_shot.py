"""The tables and the picture of few-shot heads, from a run of a minute's hundredth."""

import json

import pytest

from benchmarks import few_shot

TINY = [
    "model.model_options={patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}",
    "data.shot=2",
    "data.queries=2",
    "data.train_episodes=2",
    "data.val_episodes=2",
    "data.test_episodes=3",
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
]


def test_rows_are_kept_and_differences_are_paired_by_seed(tmp_path, capsys):
    wanted = ([0], ["prototype", "cross"], tmp_path, TINY)
    few_shot.measure(*wanted)
    printed = capsys.readouterr().out
    rows = {
        row["arm"]: row
        for row in map(json.loads, (tmp_path / "few_shot.jsonl").read_text().splitlines())
    }
    assert rows.keys() == {"prototype", "cross"}
    assert {*few_shot.ACCURACIES, *few_shot.SHARES} <= rows["cross"].keys()
    assert "on ink, attention" not in rows["prototype"]
    assert all(0 <= rows["cross"][x] <= 1 for x in (*few_shot.ACCURACIES, *few_shot.SHARES))
    less = 100 * (rows["cross"]["unseen"] - rows["prototype"]["unseen"])
    assert f"| cross, less prototype, unseen | {less:+.1f} | {less:+.1f} |" in printed
    assert (tmp_path / "few_shot.png").is_file()
    few_shot.measure(*wanted)  # goes on where it was: with nothing
    assert len((tmp_path / "few_shot.jsonl").read_text().splitlines()) == 2
    with pytest.raises(SystemExit, match="other --options; accepted: another --output"):
        few_shot.measure(*wanted[:3], [])
