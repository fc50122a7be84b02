"""A text and regions of a picture, in a tower each and then side by side in joint blocks."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from benchmarks.families import ENTRIES, pairs
from relprop import UnsupportedModel
from tests.helpers.maps import gradients
from tests.helpers.plain import B, Block, C, D, eager

WORDS, REGIONS = 6, 4
METHODS = (  # those that take several sources, and more than one chain of blocks
    *("transformer_attribution", "generic_attention", "attnlrp_attention", "bimodal_attention"),
    *("rollout", "raw_attention", "partial_lrp", "attnlrp", "cp_lrp", "agf"),
)


class LateFusion(nn.Module):
    def __init__(self, joined: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.joined = joined or (lambda words, regions: torch.cat([words, regions], dim=1))
        self.words, self.regions = nn.Embedding(20, D), nn.Linear(5, D)
        self.towers = nn.ModuleList(Block() for _ in range(2))
        self.joint = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(D, C)
        self.double().eval()

    def block(self, block: Block, x: Tensor) -> Tensor:
        y, attention = eager(*block.heads(block.norm1(x)))
        self.maps.append(attention)
        x = x + block.out(y.transpose(1, 2).flatten(2))
        return x + block.fc2(F.relu(block.fc1(block.norm2(x))))

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        self.maps: list[Tensor] = []
        pairs = zip(self.towers, (self.words(input_ids), self.regions(pixel_values)), strict=True)
        x = self.joined(*(self.block(tower, x) for tower, x in pairs))
        for block in self.joint:
            x = self.block(block, x)
        return self.head(x[:, 0])


@pytest.fixture(scope="module")
def model() -> LateFusion:
    return LateFusion()


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 20, (B, WORDS), generator=generator)
    regions = torch.randn(B, REGIONS, 5, dtype=torch.float64, generator=generator)
    return {"input_ids": ids, "pixel_values": regions}


def maps_of(explanation: relprop.Explanation) -> list[Tensor]:
    return [explanation.sources[name].relevance for name in ("input_ids", "pixel_values")]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for f, e in zip(found, expected, strict=True):
        assert e.std() > 0
        torch.testing.assert_close(f, e, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["bimodal_attention", "generic_attention"])
def test_tokens_of_two_towers_are_one_set_in_joint_blocks(model, inputs, method):
    """R += C R of the words, of the regions, and then of both: [words; regions]."""
    y = model(**inputs)[:, 1]
    pairs = zip(model.maps, gradients(y, model.maps), strict=True)
    words, regions, *joint = [(A * G).relu().mean(dim=1) for A, G in pairs]
    R = torch.eye(WORDS + REGIONS).double().repeat(B, 1, 1)
    R[:, :WORDS, :WORDS] += words
    R[:, WORDS:, WORDS:] += regions
    for C_b in joint:
        R = R + C_b @ R
    expected = [R[:, 0, :WORDS], R[:, 0, WORDS:]]
    assert_close(maps_of(relprop.explain(model, inputs, 1, method)), expected)


JOINED = {
    "turned around": lambda words, regions: torch.cat([words.flip(1), regions], dim=1),
    "some of them": lambda words, regions: torch.cat([words[:, :3], regions], dim=1),
    "both turned around": lambda words, regions: torch.cat([words, regions], dim=1).flip(1),
    "words twice": lambda words, regions: torch.cat([words, regions, words], dim=1),
}


@pytest.mark.parametrize("name", JOINED)
def test_towers_whose_tokens_are_joined_in_another_order_are_refused(name, inputs):
    """Rows and columns of the maps would be of other tokens."""
    model = LateFusion(JOINED[name])
    with pytest.raises(UnsupportedModel, match="each in its order, and those of .* are moved"):
        relprop.explain(model, inputs, 1, "bimodal_attention")
    for found in maps_of(relprop.explain(model, inputs, 1, "generic_attention")):
        assert found.std() > 0


@pytest.mark.parametrize("method", METHODS)
def test_several_classes_at_once_are_each_alone(model, inputs, method):
    classes = [None, 2, torch.arange(B)]
    together = relprop.explain_classes(relprop.record(model, inputs), classes, method)
    for target, found in zip(classes, together, strict=True):
        alone = relprop.explain_trace(relprop.record(model, inputs), target, method)
        assert torch.equal(found.target, alone.target)
        assert_close(maps_of(found), maps_of(alone))


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_in_parts_is_the_batch(model, inputs, method):
    target = torch.arange(B)
    whole, parts = (
        relprop.explain(model, inputs, target, method, max_memory=size) for size in (None, 0)
    )
    assert torch.equal(parts.target, target)
    assert_close([parts.logits, *maps_of(parts)], [whole.logits, *maps_of(whole)])


def test_a_picture_that_is_put_into_the_text_of_another_sample_is_refused():
    """LLaVA fills the places of patches in the order of the batch, whichever text they are in."""
    example = ENTRIES["pair/LLaVA, next token"].make()
    words, patches = example.inputs["input_ids"][:, -7:], example.inputs["input_ids"][0, :-7]
    first = torch.cat([patches, patches, words[0]])  # those of both pictures
    ids = torch.stack([first, first.masked_fill(first == pairs.IMAGE, 5)])
    inputs = example.inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with pytest.raises(UnsupportedModel, match="depend on 'pixel_values' of other samples"):
        relprop.explain(example.model, inputs, 1, "attnlrp", **example.asked)


@pytest.mark.parametrize("method", ["raw_attention", "last_block", "bimodal_attention"])
def test_tokens_that_learned_queries_have_pooled_are_not_followed_by_one_map(method):
    """BLIP-2's picture would be 0 everywhere."""
    example = ENTRIES["pair/BLIP-2, next token"].make()
    with pytest.raises(UnsupportedModel, match="queries of the model's own|is none; accepted"):
        relprop.explain(example.model, example.inputs, 1, method, **example.asked)
