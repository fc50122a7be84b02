"""Batches, classes and attention heads in parts: the same maps, in the memory that there is."""

import gc
import re

import pytest
import torch

import relprop
from relprop import rules
from relprop.backward import _of_product
from relprop.memory import measure_sample, memory_of_walk


def test_a_batch_in_parts_that_fit_into_memory(tiny_vit, images, monkeypatch):
    model, sizes = tiny_vit(), []
    images = torch.cat([images, images.flip(-1)])  # 6
    whole = relprop.explain(model, images, torch.arange(6) % 5)
    one = measure_sample(model, images)
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
    monkeypatch.setattr("relprop.explanation.LARGEST", fits * widest)
    model.blocks[-1].register_forward_pre_hook(lambda block, args: sizes.append(len(args[0])))
    found = relprop.explain(model, images, target)
    assert sizes == parts  # none of which was broken off after the first block
    assert torch.equal(found.target, whole.target)
    torch.testing.assert_close(found.relevance, whole.relevance, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.logits, whole.logits)


def test_classes_in_parts_that_fit_into_memory(tiny_vit, images):
    trace, walks = relprop.record(tiny_vit(), images), []
    walk_back = trace._walk_back
    trace._walk_back = lambda *args: walks.append(1) or walk_back(*args)
    whole = relprop.explain_classes(trace, range(5))
    at_once = len(walks)
    parts = relprop.explain_classes(trace, range(5), max_memory=2 * memory_of_walk(trace))
    assert len(walks) == at_once + 3 * at_once
    for found, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-9, atol=1e-12)


def test_max_memory_is_not_for_one_class_of_a_recording(tiny_vit, images):
    with pytest.raises(ValueError, match="unknown option 'max_memory'"):
        relprop.explain_trace(relprop.record(tiny_vit(), images), 1, max_memory=1)


@pytest.mark.parametrize("shape", [(2, 3), (6,)], ids=["heads apart", "heads in the batch"])
def test_attention_scores_a_few_heads_at_a_time(shape, monkeypatch):
    Q, K, R = (torch.randn(*shape, *sides).double() for sides in ((5, 2), (2, 5), (5, 5)))
    expected, sizes = rules.matmul_halves(R, Q @ K, Q, K, eps=0.0), []

    def counted(relevance, *args, **kwargs):
        sizes.append(len(relevance))
        return rules.matmul_halves(relevance, *args, **kwargs)

    monkeypatch.setattr("relprop.backward.matmul_halves", counted)
    monkeypatch.setattr("relprop.backward.CACHED", 4 * R.nbytes // 6)
    found = _of_product(counted, R, Q, K, eps=0.0)
    assert sizes == [4, 2]
    for f, e in zip(found, expected, strict=True):
        assert f.shape == e.shape
        torch.testing.assert_close(f, e, rtol=1e-12, atol=0)
