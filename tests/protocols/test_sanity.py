"""Cascading randomisation, against a model that is made anew for each stage."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import explain
from lightning_modules.data import DATAMODULES
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.protocols import PROTOCOLS, evaluate, values_of
from lightning_modules.utils.checkpoint_files import find_checkpoint
from tests.helpers.runs import ONE_EPOCH

SMALL = {"train_size": 60, "val_size": 20, "test_size": 60}


@pytest.fixture(scope="module")
def digits(trained) -> Path:
    return trained(*ONE_EPOCH)


def test_the_cascade_is_that_of_models_made_anew(digits):
    module = load_classifier(find_checkpoint(digits)).double()
    data = DATAMODULES["digits"](batch_size=2, **SMALL)
    protocol = PROTOCOLS["sanity"](module, data)
    before = copy.deepcopy(module.state_dict())
    *_, progress = evaluate(protocol, ["attnlrp", "rollout"], {}, 3)
    ours = values_of(progress.metrics["attnlrp"])
    depth = len(module.backbone.blocks)
    drawn, curve = protocol.random["all"].backbone.state_dict(), []
    for count in range(1, depth + 1):
        upper = tuple(f"blocks.{i}." for i in range(depth - count, depth))
        other = copy.deepcopy(module)
        state = other.backbone.state_dict()
        state |= {n: x for n, x in drawn.items() if n.startswith(("head.", "norm.", *upper))}
        other.backbone.load_state_dict(state)
        values = []
        for index in range(3):
            batch = {"image": data.test_dataset[index]["image"][None].double()}
            first = module.explain(batch, method="attnlrp")
            second = other.explain(batch, int(first.target[0]), "attnlrp")
            values.append(abs(spearmanr(first.relevance[0], second.relevance[0]).statistic))
        curve.append(np.mean(values))
    name = "cascade/rank_correlation"
    for count, value in enumerate(curve, 1):
        assert ours[name, count] == pytest.approx(value, abs=1e-6), count
    assert ours[name, 0] == ours["head/rank_correlation", None]
    assert ours[name, depth + 1] == ours["all/rank_correlation", None]
    places = [place for of, place in ours if of == name]
    assert places == list(range(depth + 2))
    mean = np.mean([ours[name, place] for place in places])
    assert ours["cascade/mean", None] == pytest.approx(mean)
    assert values_of(progress.metrics["rollout"])[name, 0] == pytest.approx(1)  # blind to the head
    assert all(torch.equal(before[n], x) for n, x in module.state_dict().items())


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize(("given", "samples"), [([], 50), (["--limit", "3"], 3)])
def test_it_is_of_50_samples_unless_told_otherwise(digits, tmp_path, given, samples):
    few = ["--protocol", "sanity", "--method", "rollout", "data.test_size=60"]
    output = ["--output", str(tmp_path)]
    explain.main(["evaluate", "--checkpoint", str(digits), *few, *given, *output])
    assert json.loads((tmp_path / "scores.json").read_text())["samples"] == samples
