"""Heatmaps lie where the relevance is."""

import pytest
import torch

import relprop


@pytest.mark.parametrize("method", ["transformer_attribution", "lrp"])
def test_heatmap(method, tiny_vit):
    model = tiny_vit(img_size=(32, 48))
    explanation = relprop.explain(model, torch.randn(2, 3, 32, 48).double(), method=method)
    assert explanation.heatmap(40).shape == (2, 40, 40)
    assert explanation.heatmap((32, 48)).shape == (2, 32, 48)
    assert torch.equal(explanation.heatmap(explanation.grid).flatten(1), explanation.relevance)
    rows, columns = explanation.grid
    assert explanation.relevance.shape == (2, rows * columns)


def test_heatmap_lies_where_the_relevance_is():
    relevance = torch.zeros(1, 6)
    relevance[0, 5] = 1  # last row, last column
    explanation = relprop.Explanation(relevance, torch.tensor([0]), torch.zeros(1, 2), (2, 3))
    heatmap = explanation.heatmap((20, 30))[0]
    assert heatmap[15:, 25:].eq(1).all() and heatmap[:5].eq(0).all() and heatmap[:, :15].eq(0).all()


def test_heatmap_of_text():
    explanation = relprop.Explanation(torch.ones(1, 6), torch.tensor([0]), torch.zeros(1, 2), None)
    with pytest.raises(ValueError, match="there is no grid of patches"):
        explanation.heatmap(8)


def test_grid_of_an_image_follows_the_patches(tiny_vit):
    """A bright patch far from the others is found where it is: rows are rows."""
    model = tiny_vit(img_size=(32, 48), depth=1)
    with torch.no_grad():
        model.pos_embed.zero_()
    images = torch.zeros(1, 3, 32, 48).double()
    images[:, :, 8:16, 40:48] = torch.randn(3, 8, 8).double()
    relevance = relprop.explain(model, images, 0, "raw_attention").relevance.view(4, 6)
    odd = relevance - relevance.median()
    assert odd.abs().argmax() == 1 * 6 + 5 and (odd.abs() > 1e-9).sum() == 1
