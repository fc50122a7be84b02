"""The tables and the picture of few-shot heads, from a run of a minute's hundredth."""

import json

from benchmarks import few_shot

ACCURACIES = ["unseen", "interval, half", "seen"]
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


def test_differences_are_paired_by_seed(monkeypatch, tmp_path, capsys):
    given = ["x", "--seeds", "0", "--output", str(tmp_path), "--options", *TINY]
    monkeypatch.setattr("sys.argv", given)
    few_shot.main()
    printed = capsys.readouterr().out
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    rows = {row["arm"]: row for row in map(json.loads, lines)}
    assert rows.keys() == {"prototype", "cross"}
    assert {*ACCURACIES, *few_shot.SHARES} <= rows["cross"].keys()
    assert "on ink, attention" not in rows["prototype"]
    assert all(0 <= rows["cross"][x] <= 1 for x in (*ACCURACIES, *few_shot.SHARES))
    less = 100 * (rows["cross"]["unseen"] - rows["prototype"]["unseen"])
    assert f"| cross, less prototype | {less:+.1f} |" in printed
    assert (tmp_path / "few_shot.png").is_file()
