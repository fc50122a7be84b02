"""The tables of how far models read, from rows made by hand; and what bias channels take."""

import json

import pytest
import torch

import relprop
from benchmarks import dape
from lightning_modules.models.dape import AdaptedScores, Dape
from tests.helpers.plain import H, Plain, ids

ACCURACY = {"absolute": 0.5, "Kerple": 0.75}


@pytest.fixture
def trainings(monkeypatch):
    """Which arms and seeds are trained, instead of training them."""
    done = []

    def trained(seed, folder, *options):
        arm = "absolute" if "model.positions=absolute" in options else "Kerple"
        done.append((arm, seed, folder.name))
        return ACCURACY[arm] + seed / 100

    monkeypatch.setattr(dape, "trained", trained)
    monkeypatch.setattr(dape, "figures", lambda x: dict.fromkeys(dape.FIGURES, x))
    return done


def test_rows_are_kept_and_differences_are_paired_by_seed(trainings, tmp_path, capsys):
    wanted = ([0, 1], ["absolute", "Kerple"], tmp_path, [])
    dape.measure(*wanted)
    printed = capsys.readouterr().out
    assert "| absolute | 2 | 0.505 ± 0.007 |" in printed
    assert "| Kerple, less absolute | +25.0" in printed
    assert (tmp_path / "dape.png").is_file()
    assert [x[:2] for x in trainings] == [
        ("absolute", 0),
        ("Kerple", 0),
        ("absolute", 1),
        ("Kerple", 1),
    ]
    dape.measure(*wanted)  # goes on where it was: with nothing
    assert len(trainings) == 4
    rows = [json.loads(x) for x in (tmp_path / "dape.jsonl").read_text().splitlines()]
    assert [row["4x"] for row in rows] == [0.5, 0.75, 0.51, 0.76]
    with pytest.raises(SystemExit, match="other --options; accepted: another --output"):
        dape.measure(*wanted[:3], ["trainer.max_epochs=1"])


@pytest.mark.parametrize("bias", ["kerple", "none"])
def test_what_the_bias_channels_take(bias):
    """Counting it changes no relevance."""
    torch.manual_seed(0)
    module = AdaptedScores(H, Dape(bias, width=32)).double()

    def attend(q, k, v, mask=None):
        attention = module(q @ k.mT).softmax(-1)
        return attention @ v, attention

    trace = relprop.record(Plain(text=True, attend=attend), ids())
    lost = dape.Lost(H)
    target = torch.tensor([0, 1, 2])
    counted = trace.source_relevance(target, rules=lost.rules())
    plain = trace.source_relevance(target, rules="paper")
    torch.testing.assert_close(counted, plain, rtol=0, atol=0)
    assert 0 < lost.share() < 1 if bias == "kerple" else lost.of_bias == 0
