"""The tables of ways to train from several seeds, with runs that are made up."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from timm.layers import PatchEmbed

from benchmarks import by_seed, parts, pooling
from benchmarks.by_seed import measured, print_differences, print_table


@pytest.fixture
def trained(monkeypatch):
    """What is trained, instead of training it."""
    done = []
    monkeypatch.setattr(by_seed, "load_config", lambda path, options: options)
    monkeypatch.setattr(by_seed, "experiment", lambda options, checkpoint: done.append(options))
    return done


def test_a_second_call_trains_what_is_not_measured_yet(trained, tmp_path):
    arms = {"plain": [], "a + b": ["model.parts=true"]}
    chosen = SimpleNamespace(arms=["plain"], seeds=[0, 1], output=tmp_path, options=["x=1"])
    assert len(measured(chosen, arms, lambda ended, folder: {"accuracy": 0.5})) == len(trained) == 2
    chosen.arms = ["plain", "a + b"]
    rows = measured(chosen, arms, lambda ended, folder: {"accuracy": 0.75})
    assert len(trained) == 4 and {"model.parts=true", "x=1", "seed=1"} <= set(trained[-1])
    assert f"run_dir={tmp_path / 'a-b-1'}" in trained[-1]
    kept = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["accuracy"] for row in kept] == [0.5, 0.5, 0.75, 0.75]
    assert rows == [kept[i] for i in (0, 2, 1, 3)]  # seed by seed
    chosen.options = []
    with pytest.raises(SystemExit, match="other --options; accepted: another --output"):
        measured(chosen, arms, lambda ended, folder: {})


def test_the_table_has_differences_paired_by_seed(capsys):
    scores = {"avg": (0.5, 0.7, 0.6), "attention": (0.6, 0.8, 0.9)}
    rows = [
        {"arm": arm, "seed": seed, "options": [], "accuracy": x, "of one": x if x > 0.7 else None}
        for arm, of_arm in scores.items()
        for seed, x in enumerate(of_arm)
    ]
    print_table(rows)
    print_differences(rows, [("attention", "avg"), ("avg", "absent")], ["accuracy"])
    *_, avg, attention, _, _, _, less = capsys.readouterr().out.splitlines()
    assert avg == "| avg | 3 | 0.600 ± 0.100 |  |"
    assert attention == "| attention | 3 | 0.767 ± 0.153 | 0.850 ± 0.071 |"
    # 10, 10 and 30 points: 16.7 ± 4.303 * 11.547 / sqrt(3)
    assert less == "| attention, less avg | +16.7 (-12.0 to +45.4) |"


def test_a_patch_is_on_the_digit_where_it_holds_some_of_its_ink():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 3, 4] = True
    found = parts.patches_with(mask, PatchEmbed(8, 4, embed_dim=1))
    assert found.tolist() == [[0, 1, 0, 0]]


SMALL = [
    *("data.train_size=32", "data.val_size=16", "data.test_size=16", "data.pairs_size=4"),
    *("data.batch_size=16", "trainer.max_epochs=1"),
    "model.model_options={patch_size: 8, embed_dim: 16, depth: 2, num_heads: 4}",
]


@pytest.mark.parametrize("module", [parts, pooling])
def test_arms_are_trained_compared_and_drawn(module, monkeypatch, tmp_path, capsys):
    given = ["x", "--seeds", "0", "--output", str(tmp_path), "--options", *SMALL]
    monkeypatch.setattr("sys.argv", given)
    module.main()
    printed = capsys.readouterr().out
    for arm in module.ARMS:
        assert f"| {arm} | 1 |" in printed
    assert "| difference, points | accuracy |" in printed and "| nan" not in printed
    picture = Image.open(tmp_path / f"{module.__name__.rpartition('.')[2]}.png")
    assert picture.width > 400 * len(module.ARMS)
