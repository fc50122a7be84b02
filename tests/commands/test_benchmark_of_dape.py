"""The tables of how far models read, from rows made by hand; and what bias channels take."""

import pytest
import torch

import relprop
from benchmarks import dape
from lightning_modules.models.dape import AdaptedScores, Dape
from tests.helpers.plain import H, Plain, ids

ACCURACY = {"absolute": 0.5, "Kerple": 0.75}


def row(arm: str, seed: int) -> dict:
    figures = dict.fromkeys(dape.FIGURES, ACCURACY[arm] + seed / 100)
    return {"arm": arm, "seed": seed, "options": [], **figures}


def test_differences_are_paired_by_seed(tmp_path, capsys):
    rows = [row(arm, seed) for seed in (0, 1) for arm in ACCURACY]
    dape.print_table(rows)
    dape.print_differences(rows, dape.STEPS, dape.FIGURES)
    printed = capsys.readouterr().out
    assert "| absolute | 2 | 0.505 ± 0.007 |" in printed
    assert "| Kerple, less absolute | +25.0" in printed
    dape.draw(rows, tmp_path / "dape.png")
    assert (tmp_path / "dape.png").stat().st_size > 1000


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
