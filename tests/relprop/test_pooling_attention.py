"""The map of the layer that pools: against the attention as it stands in the recording."""

import pytest
import timm
import torch

import relprop
from lightning_modules.models.pooling import pool_by
from relprop import UnsupportedModel
from tests.helpers.products import METHODS, blocks_of, chain

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
CLASSES = 3


def vit(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    options = SIZES | options
    return timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, **options).double()


def pooled(pool: str, heads: int = 1) -> torch.nn.Module:
    model = vit()
    pool_by(model, pool, heads, 1.0)
    return model.double()


def cait() -> torch.nn.Module:
    """Talking heads in its blocks, which no method that multiplies maps follows."""
    torch.manual_seed(0)
    return timm.create_model("cait_xxs24_224", img_size=64, depth=2, num_classes=CLASSES).double()


# A model, its pictures' side, how many columns come before the patches, and the query of a class.
MODELS = {
    "attention": (lambda: pooled("attention"), 32, 1, lambda c: 0),
    "attention, two heads": (lambda: pooled("attention", 2), 32, 1, lambda c: 0),
    "attention_per_class": (lambda: pooled("attention_per_class", 2), 32, 0, lambda c: c),
    "timm's map": (lambda: vit(global_pool="map", class_token=False), 32, 0, lambda c: 0),
    "timm's map, a class token": (lambda: vit(global_pool="map"), 32, 0, lambda c: 0),
    "class attention": (cait, 64, 1, lambda c: 0),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_last_map_without_the_class_column(name):
    make, side, before, query = MODELS[name]
    images = torch.rand(2, 3, side, side, dtype=torch.float64)
    trace = relprop.record(make(), images)
    A = trace.attention[-1].mean(dim=1)
    for target in range(CLASSES):
        found = relprop.explain_trace(trace, target, "pooling_attention")
        torch.testing.assert_close(found.relevance, A[:, query(target), before:])
    both = relprop.explain_classes(trace, [2, 0], "pooling_attention")
    for target, found in zip([2, 0], both, strict=True):
        torch.testing.assert_close(found.relevance, A[:, query(target), before:])
    alone = relprop.explain(make(), images, 1, "pooling_attention")  # frees what it has passed
    torch.testing.assert_close(alone.relevance, A[:, query(1), before:])


@pytest.mark.parametrize(
    "make", [vit, lambda: pooled("avg"), lambda: pooled("token")], ids=["vit", "avg", "token"]
)
def test_a_model_that_does_not_pool_by_attention_is_refused(make):
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    with pytest.raises(UnsupportedModel, match="learned query or by class attention; accepted: a"):
        relprop.explain(make(), images, method="pooling_attention")


def test_attention_from_one_text_to_another_is_no_pooling():
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2, vocab_size=30
    )
    model = transformers.T5ForConditionalGeneration(config)
    ids = torch.arange(3, 21).view(2, 9)
    inputs = {"input_ids": ids, "decoder_input_ids": ids[:, :4]}
    with pytest.raises(UnsupportedModel, match="learned query or by class attention"):
        relprop.explain(model, inputs, method="pooling_attention", position=-1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["attention", "attention, two heads", "attention_per_class"])
def test_products_go_through_the_layer_that_pools(name, method):
    """c + A v: the query is a constant, so that its I is lost, and so is its column of A."""
    make, side, before, query = MODELS[name]
    images = torch.rand(2, 3, side, side, dtype=torch.float64)
    trace = relprop.record(make(), images)
    for target in range(CLASSES):
        found = relprop.explain_trace(trace, target, method).relevance
        *blocks, last = blocks_of(trace, torch.full((2,), target), method)
        row = last[:, query(target), before:]
        expected = torch.einsum("bn,bnm->bm", row, chain(blocks, method))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("method", ["rollout", "without_gradient", "attnlrp", "lrp"])
@pytest.mark.parametrize("name", ["attention", "attention_per_class", "timm's map"])
def test_every_class_has_a_map(name, method):
    make, side, *_ = MODELS[name]
    trace = relprop.record(make(), torch.rand(2, 3, side, side, dtype=torch.float64))
    for target in range(CLASSES):
        found = relprop.explain_trace(trace, target, method).relevance
        assert found.isfinite().all() and (found.abs().sum(dim=1) > 0).all()
