"""Properties of maps, and whether they point at the object, against slow definitions."""

import math
from pathlib import Path

import pytest
import torch

import explain
from lightning_modules.data import DATAMODULES
from lightning_modules.metrics import EnergyInside, PointingGame
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.protocols import PROTOCOLS, compared, evaluate, values_of
from lightning_modules.utils.checkpoint_files import find_checkpoint
from tests.helpers.runs import ONE_EPOCH

SMALL = {"train_size": 60, "val_size": 20, "test_size": 20}


@pytest.fixture(scope="module")
def digits(trained) -> Path:
    return trained(*ONE_EPOCH)


@pytest.fixture(scope="module")
def images(digits):
    """A classifier and its data."""
    return load_classifier(find_checkpoint(digits)), DATAMODULES["digits"](batch_size=3, **SMALL)


@pytest.fixture(scope="module")
def reviews(trained) -> Path:
    return trained(*ONE_EPOCH, experiment="reviews")


def norm(x: torch.Tensor) -> float:
    return math.sqrt(sum(float(value) ** 2 for value in x.flatten()))


def test_properties_are_those_of_a_loop_over_samples(images):
    module, data = images
    protocol = PROTOCOLS["properties"](module, data)
    *_, progress = evaluate(protocol, ["attnlrp", "rollout"], {}, 5)
    errors, entropies, changes = [], [], []
    for index in range(5):
        image = data.test_dataset[index]["image"]
        found = module.explain({"image": image[None]}, method="attnlrp")
        target, relevance = int(found.target[0]), found.relevance[0].double()
        y = float(found.logits[0, target])
        errors.append(abs(float(relevance.sum()) - y) / abs(y))
        shares = [abs(float(x)) / float(relevance.abs().sum()) for x in relevance]
        entropies.append(-sum(p * math.log(p) for p in shares if p) / math.log(len(shares)))
        largest = 0.0
        for draw in range(4):
            generator = torch.Generator().manual_seed(4 * index + draw)
            noise = 0.05 * image.std() * torch.randn(image.shape, generator=generator)
            other = module.explain({"image": (image + noise)[None]}, target, "attnlrp")
            largest = max(largest, norm(other.relevance[0] - relevance) / norm(relevance))
        changes.append(largest)
    ours = values_of(progress.metrics["attnlrp"])
    assert ours["completeness/error", None] == pytest.approx(sorted(errors)[2], rel=1e-3)
    assert ours["complexity/entropy", None] == pytest.approx(sum(entropies) / 5, rel=1e-4)
    assert ours["sensitivity/change", None] == pytest.approx(sorted(changes)[2], rel=1e-2)
    assert ("completeness/error", None) not in values_of(progress.metrics["rollout"])
    compared_ = compared(progress.metrics, "attnlrp", protocol.columns)
    assert {x.standing for x in compared_ if x.name == "completeness/error"} == {None}


def test_noise_does_not_depend_on_the_batch(images):
    module, data = images
    found = []
    for size in (2, 5):
        data.batch_size = size
        *_, progress = evaluate(PROTOCOLS["properties"](module, data), ["rollout"], {}, 5)
        found.append(values_of(progress.metrics["rollout"])["sensitivity/change", None])
    data.batch_size = 3
    assert found[0] == pytest.approx(found[1], rel=1e-3) and found[0] > 0


@pytest.mark.usefixtures("few_draws")
def test_what_a_method_has_no_number_of_is_a_dash(reviews, tmp_path, capsys):
    explain.main(
        [
            *("evaluate", "--checkpoint", str(reviews), "--protocol", "properties"),
            *("--method", "attnlrp", "rollout", "--limit", "4", "--output", str(tmp_path)),
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    cells = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert cells["rollout"][0] == "-" == cells["rollout"][2]
    assert cells["attnlrp"][0] != "-" == cells["attnlrp"][2]
    assert (tmp_path / "scores.png").stat().st_size > 5000


def test_the_highest_point_and_the_share_inside_are_those_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(6, 4, 5, generator=generator)
    maps[0] = -1  # nothing positive, and all points are the highest
    masks = torch.rand(6, 4, 5, generator=generator) > 0.6
    game, energy = PointingGame(), EnergyInside()
    hits, shares = [], []
    for start in (0, 4):
        for metric in (game, energy):
            metric.update(maps[start : start + 4], masks[start : start + 4])
    for map_, mask in zip(maps.tolist(), masks.tolist(), strict=True):
        points = [(map_[i][j], mask[i][j]) for i in range(4) for j in range(5)]
        highest = max(value for value, _ in points)
        of_highest = [inside for value, inside in points if value == highest]
        hits.append(sum(of_highest) / len(of_highest))
        total = sum(max(0, value) for value, _ in points)
        within = sum(max(0, value) for value, inside in points if inside)
        shares.append(within / total if total else sum(inside for _, inside in points) / 20)
    assert game.compute()["hits"].item() == pytest.approx(sum(hits) / 6)
    assert energy.compute()["energy"].item() == pytest.approx(sum(shares) / 6)


def test_segmentation_keeps_its_names(images):
    *_, progress = evaluate(PROTOCOLS["segmentation"](*images), ["rollout"], {}, 4)
    names = [name for name, _ in values_of(progress.metrics["rollout"])]
    assert names[:3] == ["pixel_accuracy", "mIoU", "mAP"]
    assert names[3:] == ["pointing_game/hits", "inside/energy"]
