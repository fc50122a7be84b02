"""The metrics against the published evaluation's figures, and against their definitions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

from lightning_modules.metrics import ClassSpecificity, PerturbationAccuracy, Segmentation, perturb
from tests.helpers.processes import finish_two

FOLDER = Path(__file__).parents[1] / "reference"
FIGURES = json.loads((FOLDER / "metrics.json").read_text())
ARRAYS = {name: torch.from_numpy(a) for name, a in np.load(FOLDER / "metrics.npz").items()}
BLACK = torch.full((3,), -1.0, dtype=torch.float64)  # (0 - 0.5) / 0.5


def test_segmentation_is_the_published_one():
    maps = ARRAYS["segmentation_maps"].view(6, 1, 4, 4)
    heatmaps = F.interpolate(maps, size=(32, 32), mode="bilinear")[:, 0]
    for batch_size in (1, 4, 6):
        metric = Segmentation()
        for start in range(0, 6, batch_size):
            part = slice(start, start + batch_size)
            metric.update(heatmaps[part], ARRAYS["segmentation_masks"][part])
        for name, value in metric.compute().items():
            assert value.item() == pytest.approx(FIGURES["segmentation"][name], abs=1e-6), name


@pytest.fixture(scope="module")
def reference_vit():
    arrays = np.load(FOLDER / "vit.npz")
    model = VisionTransformer(**json.loads((FOLDER / "config.json").read_text())["vit"])
    weights = {k[7:]: torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith("weight/")}
    model.load_state_dict(weights)
    return model.double().eval()


@pytest.mark.parametrize("order", ["positive", "negative"])
@torch.no_grad()
def test_perturbation_is_the_published_one(reference_vit, order):
    figures = FIGURES["perturbation"]
    images = (ARRAYS["perturbation_images"] - 0.5) / 0.5
    maps = ARRAYS["perturbation_maps"].view(12, 32, 32)
    metric = PerturbationAccuracy(figures["steps"])
    predictions = [
        reference_vit(perturb(images, maps, share, order == "positive", BLACK)).argmax(dim=1)
        for share in figures["steps"]
    ]
    metric.update(torch.stack(predictions, dim=1), ARRAYS["perturbation_labels"])
    expected = torch.tensor(figures["accuracy"][order], dtype=torch.float64)
    torch.testing.assert_close(metric.compute()["accuracy"], expected, rtol=0, atol=1e-6)


def test_what_goes_is_the_most_or_the_least_relevant():
    image = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64)
    heatmap = torch.tensor([[[0.1, 0.9], [0.5, 0.3]]])
    positive = perturb(image, heatmap, 0.5, True, BLACK)[0, 0]
    negative = perturb(image, heatmap, 0.5, False, BLACK)[0, 0]
    assert positive.tolist() == [[0.5, -1.0], [-1.0, 0.5]]
    assert negative.tolist() == [[-1.0, 0.5], [0.5, -1.0]]


def test_the_area_is_that_of_trapezoids():
    metric = PerturbationAccuracy(steps=[0.1, 0.2, 0.9])
    metric.update(torch.tensor([[1, 1, 0], [1, 0, 0]]), torch.tensor([1, 1]))
    by_hand = (0.1 * (1 + 0.5) / 2 + 0.7 * (0.5 + 0) / 2) / 0.8
    assert metric.compute()["auc"].item() == pytest.approx(by_hand)


def test_specificity_by_hand():
    metric = ClassSpecificity()
    own, other = torch.tensor([[1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 0], [0, 0, 1]])
    # Negative relevance, and what lies on neither object, count for nothing.
    metric.update(torch.tensor([[3.0, 1.0, 9.0], [5.0, -1.0, 0.0]]), own, other)
    assert metric.compute()["class_specificity"].item() == pytest.approx((0.75 + 0.5) / 2)


def numbers(metric: Segmentation) -> dict[str, list[float]]:
    """The scores, and the ends of their intervals."""
    scores, ends = metric.compute(), metric.intervals(draws=20)
    return {name: [x.item() for x in (scores[name], *ends[name])] for name in scores}


def filled(samples) -> Segmentation:
    metric = Segmentation()
    for i in samples:
        random = torch.Generator().manual_seed(i)
        maps = torch.rand(1, 4, 4, generator=random, dtype=torch.float64)
        metric.update(maps, torch.rand(1, 4, 4, generator=random) > 0.5)
    return metric


ONE_OF_TWO = """
import json
import torch.distributed as dist
from tests.protocols.test_metrics import filled, numbers

dist.init_process_group("gloo")
print(json.dumps(numbers(filled(range(dist.get_rank(), 10, 2)))))  # every second sample
dist.destroy_process_group()
"""


def test_two_processes_find_what_one_finds(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ONE_OF_TWO)
    ended = finish_two(script)
    assert [process.returncode for process in ended] == [0, 0], ended
    first, second = (json.loads(process.stdout.splitlines()[-1]) for process in ended)
    assert first == second == numbers(filled(range(10)))
