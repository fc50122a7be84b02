"""Queries beside what they were compared with: in files and on the page."""

import math

import numpy as np
import pytest
import torch

from lightning_modules.explanations.page import page_entry
from lightning_modules.modalities.images.compared import ACROSS, Support, strongest
from lightning_modules.models.few_shot_support import Comparison
from tests.helpers.results import of_query

SHOTS = [3, 1]


def comparison(seed: int, side: int = 32, shots: list[int] = SHOTS) -> Comparison:
    """Of a query of 4 patches with supports of 4 patches a picture, the same whatever the seed."""
    pictures = torch.rand(2, max(shots), 3, side, side, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(2, 4, max(shots), 4, generator=generator)
    relevance = torch.rand(2, max(shots), 4, generator=generator)
    return Comparison(pictures, torch.tensor(shots), attention, relevance)


def test_links_lead_to_the_patches_of_a_support_that_a_patch_attends_to_most():
    attention = comparison(1).attention[0]
    for patch, links in enumerate(strongest(attention)):
        places = [(j, m) for j in range(3) for m in range(4)]
        places.sort(key=lambda place: -float(attention[patch][place]))
        assert [link[:2] for link in links] == places[:3]
        weights = [float(attention[patch][place]) for place in places[:3]]
        assert [link[2] for link in links] == pytest.approx(weights, abs=1e-4)
    assert [len(links) for links in strongest(attention[:, :1, :2])] == [2] * 4


@pytest.mark.parametrize("side", [32, 80])
def test_a_picture_of_a_support_is_on_the_page_once_for_all_queries(side):
    """And not once more under the map of each query."""
    entries = [page_entry(of_query(comparison(seed, side))) for seed in (1, 2)]
    first, second = (entry.common for entry in entries)
    assert first == second and len(first) == sum(SHOTS)
    assert all(text.startswith('"data:image/') for text in first.values())
    for entry in entries:
        assert all(entry.detail.count(name) == 1 for name in first)
        assert entry.detail.count("data:image/") == 1  # the query


def test_the_support_of_a_class_is_drawn_on_one_scale_in_rows():
    found, config = comparison(1), {"mean": [0.0] * 3, "std": [1.0] * 3}
    support = Support.of(found, config)
    assert [x.shape for x in support.maps] == [(3, 2, 2), (1, 2, 2)]
    np.testing.assert_allclose(support.maps[0].reshape(3, 4), found.relevance[0])
    assert [len(support.drawn(label)) for label in range(2)] == SHOTS
    few, many = (
        of_query(comparison(1, shots=[count, 1])).picture().shape for count in (ACROSS, ACROSS + 1)
    )
    assert few[1] == many[1] and few[0] < many[0]
    tiles = support.tiled(0)
    assert tiles.shape[0] == tiles.shape[1] and math.isclose(tiles[-1, -1, 0], 1)
