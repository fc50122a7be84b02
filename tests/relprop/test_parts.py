"""Batches and classes in parts: the same maps, in the memory that there is."""

import copy
import gc
import re

import pytest
import torch
from torch import nn

import relprop
from relprop.batching import Batch, measure_sample, memory_of_walk
from tests.helpers.methods import OF_ALL_INPUTS
from tests.helpers.plain import B, C, H, N, Plain, eager, pixels


def test_a_batch_in_parts_that_fit_into_memory(tiny_vit, images, monkeypatch):
    model, sizes = tiny_vit(), []
    images = torch.cat([images, images.flip(-1)])  # 6
    whole = relprop.explain(model, images, torch.arange(6) % 5)
    one = measure_sample(model, Batch(images))
    model.register_forward_pre_hook(lambda model, args: sizes.append(len(args[0])))
    for parts, memory in (([1] * 6, 0), ([4, 2], int(4.5 * one)), ([6], 100 * one)):
        sizes.clear()
        found = relprop.explain(model, images, torch.arange(6) % 5, max_memory=memory)
        assert sizes == [1, *parts]  # the first alone, to see what it takes
        assert torch.equal(found.target, whole.target)
        torch.testing.assert_close(found.relevance, whole.relevance, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.logits, whole.logits)


def test_a_batch_in_parts_is_checked_as_a_whole(tiny_vit, images):
    for wrong in (torch.zeros(2).long(), torch.zeros(4).long()):
        with pytest.raises(ValueError, match="accepted: None, a class or 3 of them"):
            relprop.explain(tiny_vit(), images, wrong, max_memory=0)
    with pytest.raises(ValueError, match="inputs hold no tensor"):
        relprop.explain(tiny_vit(), {}, max_memory=0)
    model, batches = tiny_vit(), []
    model.register_forward_pre_hook(lambda model, args: batches.append(len(args[0])))
    with pytest.raises(ValueError, match="target is 7; accepted: classes 0 to 4"):
        relprop.explain(model, images, torch.tensor([0, 1, 7]), max_memory=0)
    assert batches == [1, 1]  # the sample that is measured and the first part, then no more


@pytest.mark.parametrize("wrong", [-1, 4e9, float("inf"), "4 GB"])
def test_max_memory_is_a_number_of_bytes(tiny_vit, images, wrong):
    expected = re.escape(f"max_memory is {wrong!r}; accepted: a whole number of bytes")
    with pytest.raises(ValueError, match=expected):
        relprop.explain(tiny_vit(), images, 1, max_memory=wrong)
    with pytest.raises(ValueError, match=expected):
        relprop.explain_classes(relprop.record(tiny_vit(), images), [0, 1], max_memory=wrong)


@pytest.mark.parametrize("method", OF_ALL_INPUTS)
def test_a_batch_in_parts_of_a_model_that_takes_means_between_its_blocks(method):
    model = Plain(between=lambda x: x - x.mean(-1, keepdim=True))
    expected = relprop.explain(model, pixels(), 1, method).relevance
    found = relprop.explain(model, pixels(), 1, method, max_memory=0).relevance
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_nothing_of_an_explanation_in_parts_stays(tiny_vit, images):
    model = tiny_vit()

    def graphs() -> int:
        gc.collect()
        found = (x for x in gc.get_objects() if isinstance(x, torch.Tensor))
        return sum(x.grad_fn is not None for x in found)

    before = graphs()
    relprop.explain(model, images, 1, max_memory=0)
    assert graphs() == before


@pytest.mark.parametrize(
    "fits, parts", [(6, [6]), (5, [3, 3]), (4, [3, 3]), (2, [2, 2, 2]), (0, [1] * 6)]
)
def test_a_batch_in_parts_whose_tensors_memory_keeps(fits, parts, tiny_vit, images, monkeypatch):
    model, sizes = tiny_vit(), []
    images = torch.cat([images, images.flip(-1)])
    target = torch.arange(6) % 5
    whole = relprop.explain(model, images, target)
    widest = 17 * 4 * 24 * 8  # bytes of a sample within an MLP: tokens, channels, float64
    monkeypatch.setattr("relprop.explaining.LARGEST", fits * widest)
    model.blocks[-1].register_forward_pre_hook(lambda block, args: sizes.append(len(args[0])))
    found = relprop.explain(model, images, target)
    assert sizes == parts  # none of which was broken off after the first block
    assert torch.equal(found.target, whole.target)
    torch.testing.assert_close(found.relevance, whole.relevance, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.logits, whole.logits)


@pytest.mark.parametrize("given", ["one output", "output=", "as many classes as samples"])
def test_as_many_scores_as_samples_of_a_part_are_no_pairs(given, tiny_vit, images):
    """Of a part of one sample, or of two; another part has as many."""
    model, of_one = tiny_vit(num_classes=1 if given == "one output" else 2), lambda y: y[:, 1:]
    asked = {"output": of_one} if given == "output=" else {}
    samples = 2 if given == "as many classes as samples" else 1
    limit = samples * measure_sample(model, Batch(images), None, asked)
    whole = relprop.explain(model, images, 0, **asked)
    found = relprop.explain(model, images, 0, max_memory=limit, **asked)
    torch.testing.assert_close(found.relevance, whole.relevance, rtol=1e-9, atol=1e-12)


def test_classes_in_parts_that_fit_into_memory(tiny_vit, images):
    trace, walks = relprop.record(tiny_vit(), images), []
    pull = trace._backward.pull
    trace._backward.pull = lambda *args, **kwargs: walks.append(1) or pull(*args, **kwargs)
    whole = relprop.explain_classes(trace, range(5))
    at_once = len(walks)
    parts = relprop.explain_classes(trace, range(5), max_memory=2 * memory_of_walk(trace))
    assert len(walks) == at_once + 3 * at_once
    for found, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("classes_at_once", [1, 2, 8])
def test_classes_of_a_model_without_attention_and_without_sums(classes_at_once):
    """Such as VGG: the memory of a walk is that of its widest layer."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, C))
    trace = relprop.record(nn.Sequential(*layers).double(), pixels())
    assert memory_of_walk(trace) >= pixels().new_empty(B, 4, 10, 10).nbytes
    found = relprop.explain_classes(
        trace, range(C), "attnlrp", max_memory=classes_at_once * memory_of_walk(trace)
    )
    for target, explanation in enumerate(found):
        expected = relprop.explain_trace(trace, target, "attnlrp").relevance
        assert expected.std() > 0
        torch.testing.assert_close(explanation.relevance, expected, rtol=1e-9, atol=1e-12)


def test_max_memory_is_not_for_one_class_of_a_recording(tiny_vit, images):
    with pytest.raises(ValueError, match="unknown option 'max_memory'"):
        relprop.explain_trace(relprop.record(tiny_vit(), images), 1, max_memory=1)


class Masked(nn.Module):
    """A ViT with a mask [N, N], for all samples, or scales, one for each of them."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, x, mask=None, scales=None):
        logits = self.vit(x, attn_mask=mask)
        return logits if scales is None else logits * torch.tensor(scales)[:, None]


SHARED = {
    "mask": torch.ones(17, 17).tril().bool(),
    "scales": [0.5] * 17,
}


@pytest.mark.parametrize("name", SHARED)
def test_inputs_that_may_be_of_all_samples_are_not_parted(name, tiny_vit, monkeypatch):
    """As many samples as tokens: a part of the mask would be a wrong one, and nobody would see."""
    inputs = {"x": torch.randn(17, 3, 32, 32).double(), name: SHARED[name]}
    model = Masked(tiny_vit())
    expected = relprop.explain_trace(relprop.record(model, inputs), 1).relevance
    monkeypatch.setattr("relprop.explaining.LARGEST", 0)
    assert torch.equal(relprop.explain(model, inputs, 1).relevance, expected)
    with pytest.raises(ValueError, match=f"not clear whether inputs '{name}' are one for each of"):
        relprop.explain(model, inputs, 1, max_memory=0)


def test_a_bias_of_every_head_is_not_parted(monkeypatch):
    """[H, N, N], of as many heads as samples."""
    monkeypatch.setattr("relprop.explaining.LARGEST", 0)
    inputs = {"x": pixels(H), "mask": torch.randn(H, N, N).double()}
    model = Plain(attend=lambda q, k, v, mask: eager(q, k, v, mask))
    expected = relprop.explain_trace(relprop.record(model, inputs), 1).relevance
    assert torch.equal(relprop.explain(model, inputs, 1).relevance, expected)
    with pytest.raises(ValueError, match="not clear whether inputs 'mask' are one for each"):
        relprop.explain(model, inputs, 1, max_memory=0)


def test_ids_and_their_mask_are_parted_whatever_their_number():
    ids = torch.ones(8, 8).long()
    inputs = {"input_ids": ids, "attention_mask": ids, "token_type_ids": ids}
    assert Batch(inputs).indivisible is None
    lengths = torch.tensor([8, 3, 3, 8, 1, 2, 8, 7])
    for padding in (torch.arange(8) < lengths[:, None], torch.arange(8) >= lengths[:, None]):
        assert Batch(inputs | {"attention_mask": padding}).indivisible is None
    assert Batch({"tokens": ids, "mask": ids}).indivisible == "mask"
    tokens = torch.ones(8, 5)
    assert (
        Batch({"tokens": tokens, "kinds": tokens, "boxes": torch.ones(8, 5, 4)}).indivisible is None
    )
    assert Batch({"tokens": tokens, "bias": torch.ones(8, 5, 5)}).indivisible == "bias"
    assert Batch({"tokens": ids[:1, :1], "mask": ids[:1, :1]}).indivisible is None


@pytest.mark.parametrize("mask", [torch.ones(8, 8).tril(), torch.ones(8, 8).triu(), torch.eye(8)])
def test_a_mask_between_tokens_is_no_padding(mask):
    assert (
        Batch({"input_ids": torch.ones(8, 8), "attention_mask": mask}).indivisible
        == "attention_mask"
    )


def test_a_method_from_outside_sees_the_whole_batch(tiny_vit, images, monkeypatch):
    monkeypatch.setattr("relprop.methods.base.METHODS", copy.deepcopy(relprop.METHODS))
    for module in ("explaining", "from_trace"):
        monkeypatch.setattr(f"relprop.{module}.METHODS", relprop.methods.base.METHODS)

    @relprop.method("of the batch")
    def of_batch(trace, target, options):
        return torch.full((len(target), 17), float(len(target)))

    monkeypatch.setattr("relprop.explaining.LARGEST", 0)
    assert (relprop.explain(tiny_vit(), images, 1, "of the batch").relevance == 3).all()


@pytest.mark.parametrize("largest", [0, 2**30])
def test_explanations_made_in_inference_mode_are_for_training(
    largest, tiny_vit, images, monkeypatch
):
    """As Lightning validates: what comes out may be part of a loss."""
    monkeypatch.setattr("relprop.explaining.LARGEST", largest)
    model = tiny_vit()
    with torch.inference_mode():
        found = relprop.explain(model, images)
    assert not any(x.is_inference() for x in (found.relevance, found.target, found.logits))


def test_a_model_cannot_go_on_after_its_recording_has_ended(tiny_vit, images, monkeypatch):
    class Fallback(nn.Module):
        def __init__(self, vit):
            super().__init__()
            self.vit = vit

        def forward(self, x):
            try:
                return self.vit(x)
            except Exception:
                return x.flatten(1)[:, :5]

    model = Fallback(tiny_vit())
    expected = relprop.explain(model, images, 1).logits
    monkeypatch.setattr("relprop.explaining.LARGEST", 0)
    torch.testing.assert_close(relprop.explain(model, images, 1).logits, expected)
