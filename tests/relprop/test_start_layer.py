"""``start_layer`` is the depth of a block, whatever the number of attention maps."""

import pytest
import torch
import transformers
from torch import nn

import relprop
from benchmarks.families import ENTRIES
from tests.helpers.plain import Plain, eager, pixels
from tests.helpers.products import blocks_of


def twice(q, k, v):
    (y, A), (z, _) = eager(q, k, v), eager(k, q, v)
    return y + z, A


def trace_of(name: str) -> tuple[relprop.Trace, torch.Tensor]:
    example = ENTRIES[name].make()
    trace = relprop.record(example.model, example.inputs, **example.asked)
    return trace, example.classes(trace.logits)


def refused(trace, target, start_layer: int, method: str = "rollout") -> str:
    with pytest.raises(ValueError, match=f"start_layer is {start_layer}; accepted: ") as why:
        relprop.explain_trace(trace, target, method, start_layer=start_layer)
    return str(why.value).partition("accepted: ")[2]


@pytest.mark.parametrize("method", ["rollout", "transformer_attribution", "attnlrp", "gradcam"])
def test_attentions_side_by_side_are_of_one_depth(method):
    trace = relprop.record(Plain(attend=twice), pixels())
    assert trace.depth == 6
    assert refused(trace, 0, 3, method) == "0 to 2"


def test_of_maps_side_by_side_those_of_the_last_block_are_left():
    trace, target = relprop.record(Plain(attend=twice), pixels()), torch.zeros(3, dtype=torch.long)
    every, last = trace.gradient(target), trace.gradient(target, 2)
    assert [bool((a == b).all()) for a, b in zip(every[4:], last, strict=True)] == [True, True]
    with pytest.raises(ValueError, match="start_layer is 3; accepted: 0 to 2$"):
        trace.relevance(target, 3)
    C = blocks_of(trace, target, "generic_attention")
    expected = torch.eye(10).double() + C[4] + C[5]
    found = relprop.explain_trace(trace, target, "generic_attention", start_layer=2).relevance
    torch.testing.assert_close(found, expected[:, 0, 1:], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "name, deepest",
    [("timm/crossvit", 5), ("text/BART", 3), ("text/T5, next token", 3), ("pair/SigLIP, pairs", 1)],
)
def test_a_value_above_every_depth_is_refused(name, deepest):
    trace, target = trace_of(name)
    assert refused(trace, target, deepest + 1) == f"0 to {deepest}"
    found = relprop.explain_trace(trace, target, "rollout", start_layer=deepest).sources
    assert all(x.relevance.any() for x in found.values())


def test_of_two_towers_the_less_deep_one_is_the_limit():
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32}
    text = {"vocab_size": 40, "max_position_embeddings": 16, "eos_token_id": 39}
    text |= {"bos_token_id": 1, "pad_token_id": 0, "num_hidden_layers": 2}
    vision = {"image_size": 32, "patch_size": 8, "num_hidden_layers": 4}
    config = transformers.CLIPConfig(
        text_config=sizes | text, vision_config=sizes | vision, projection_dim=16
    )
    model = transformers.CLIPModel(config).double().eval()
    inputs = {"input_ids": torch.tensor([[1, 5, 6, 39]]), "pixel_values": torch.rand(1, 3, 32, 32)}
    inputs["pixel_values"] = inputs["pixel_values"].double()
    trace = relprop.record(model, inputs, output=lambda o: o.logits_per_image)
    assert refused(trace, 0, 2) == "0 to 1"
    found = relprop.explain_trace(trace, 0, "rollout", start_layer=1)
    assert all(x.relevance.any() for x in found.sources.values())


def test_each_source_keeps_a_map_that_leads_to_it():
    trace, target = trace_of("pair/LXMERT")
    found = relprop.explain_trace(trace, target, "rollout", start_layer=4)
    assert all(x.relevance.any() for x in found.sources.values())
    assert refused(trace, target, 5).startswith("0 to 4, for no map after these leads to visual_")


def test_a_model_without_attention_has_the_block_0_alone():
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 5)).double()
    trace = relprop.record(model, pixels())
    assert relprop.explain_trace(trace, 0, "lrp", start_layer=0).relevance.any()
    assert refused(trace, 0, 1, "lrp") == "0"
