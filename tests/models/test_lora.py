"""The option lora: where adapters go, what is trained, what is explained, what is kept."""

import copy
from functools import cache

import pytest
import torch

import relprop
from lightning_modules import BertClassifier
from lightning_modules.data import DATAMODULES
from lightning_modules.models.base_weights import check_base
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.fingerprint import fingerprint
from tests.models.test_bert import classifier as of_texts
from tests.models.test_classifier import classifier as vit
from tests.models.test_classifier import fit
from tests.models.test_hf_image import classifier as hf_image


def bert(**options) -> BertClassifier:
    return of_texts(reviews(), **options)


@cache
def reviews():
    sizes = {"train_size": 60, "val_size": 20, "test_size": 20, "contrast_size": 5}
    return DATAMODULES["reviews"](batch_size=6, vocab_size=300, **sizes)


MODELS = {"vit": vit, "bert": bert, "hf_image": hf_image}
BLOCK = {"vit": "blocks.{}.", "bert": "bert.encoder.layer.{}.", "hf_image": "vit.layers.{}."}
USUAL = {
    "vit": ["attn.qkv", "attn.proj"],
    "bert": ["attention.self.query", "attention.self.value"],
    "hf_image": ["attention.q_proj", "attention.v_proj"],
}


def adapted(module) -> list[str]:
    """Names of the layers that have adapters."""
    names = (name for name, _ in module.backbone.named_parameters())
    return [name.partition(".lora_A")[0] for name in names if ".lora_A" in name]


def learnt(module):
    """With adapters as after training: at the beginning they do nothing."""
    torch.manual_seed(1)
    for name, parameter in module.backbone.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return module.eval()


@pytest.mark.parametrize("kind", MODELS)
def test_adapters_and_head_are_trained_and_nothing_else(kind):
    module = MODELS[kind](lora={})
    head = module.head_parameters()
    for name, parameter in module.backbone.named_parameters():
        assert parameter.requires_grad == (name in head or ".lora_" in name), name
    in_groups = sum(len(group["params"]) for group in module.parameter_groups())
    assert in_groups == len(head) + 2 * len(adapted(module))


@pytest.mark.parametrize("kind", MODELS)
def test_the_usual_targets_are_in_every_block(kind):
    module = MODELS[kind](lora={})
    blocks = max(module.levels().values()) - 1
    names = [BLOCK[kind].format(i) + name for i in range(blocks) for name in USUAL[kind]]
    assert adapted(module) == names


def test_a_bare_proj_is_not_the_patch_embeddings():
    found = adapted(vit(lora={"targets": ["proj"]}))
    assert found == [f"blocks.{i}.attn.proj" for i in range(3)]


def test_of_stages_only_their_blocks_have_targets():
    sizes = {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "window_size": 2}
    name = "swin_tiny_patch4_window7_224"
    found = adapted(vit(name=name, model_options=sizes, lora={}))
    assert found == [f"layers.{i}.blocks.0.attn.{x}" for i in (0, 1) for x in ("qkv", "proj")]
    with pytest.raises(InputError, match="'reduction', which matches nothing; .*mlp.fc1"):
        vit(name=name, model_options=sizes, lora={"targets": ["reduction"]})


@pytest.mark.parametrize(
    "lora, message",
    [
        ({"targets": ["qkv", "query"]}, "targets has 'query', which .*: what the blocks have, "
         "attn.qkv, attn.proj, mlp.fc1, mlp.fc2$"),
        ({"targets": []}, "targets is empty; accepted: null, or what the blocks have, attn.qkv"),
        ({"r": 4}, "model.lora.r: no such option; accepted: rank, alpha, dropout, targets, save"),
        ({"rank": 0}, "model.lora.rank: 0 is not accepted; accepted: int of at least 1"),
        ({"dropout": 1}, "model.lora.dropout: 1 is not accepted; accepted: float "),
        ({"save": "no"}, 'model.lora.save: "no" is not accepted; accepted: "all" or "adapters"'),
        ({"save": "adapters"}, "the base has random weights; accepted: all, or a base from"),
    ],
)  # fmt: skip
def test_what_is_not_accepted_is_one_line(lora, message):
    with pytest.raises(ValueError, match=message):
        vit(lora=lora)


def test_a_model_without_the_usual_targets_says_what_its_blocks_have():
    with pytest.raises(InputError, match="targets is null, and .*: what the blocks have, conv1"):
        vit(name="resnet18", model_options={}, lora={})


def test_lora_and_other_freezing_are_refused_together():
    for option in ({"freeze_backbone": True}, {"freeze": ["backbone.blocks.*"]}):
        with pytest.raises(InputError, match="model.lora freezes all but .*freeze=null"):
            vit(lora={}, **option)


def test_peft_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(InputError, match=r"model.lora needs peft, .*relprop\[lora\]"):
        vit(lora={})


# -------------------------------------------------------------------------------------- explained


def batch_of(module):
    if isinstance(module, BertClassifier):
        return module.prepare(["a good film", "bad"])
    return {"image": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize("kind", MODELS)
def test_the_merged_model_is_explained_and_the_weights_stay_as_they_were(kind):
    module = learnt(MODELS[kind](lora={"rank": 4}))
    before = {name: x.clone() for name, x in module.state_dict().items()}
    batch = batch_of(module)
    found = module.explain(batch, 0).relevance
    after = module.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[x], before[x]) for x in before)
    assert adapted(module)
    plain = copy.deepcopy(module)
    plain.merge()
    assert not adapted(plain) and plain.lora is None
    expected = plain.explain(batch, 0).relevance
    assert torch.equal(found, expected)
    # Of the unmerged model the logits are these, and the maps are others.
    trace = relprop.record(module.backbone, module.inputs(batch))
    assert torch.allclose(trace.logits, module.record(batch).logits, atol=1e-5)
    unmerged = module.explain_trace(trace, batch, 0).relevance
    assert (unmerged - found).abs().max() > 1e-3 * found.abs().max()


def test_merging_draws_no_random_number():
    module = learnt(vit(lora={}))
    before = torch.get_rng_state()
    with module.merged():
        assert not adapted(module)
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------------------------------- kept


@pytest.fixture
def base(tmp_path):
    """A file of weights."""
    path = tmp_path / "base.pth"
    torch.save(vit().backbone.state_dict(), path)
    return path


def test_a_state_dict_of_adapters_has_no_frozen_weights_and_loads_without_them(base):
    module = learnt(vit(lora={"save": "adapters"}, weights=str(base)))
    state = module.state_dict()
    assert all(".lora_" in name or name.startswith("backbone.head.") for name in state)
    other = vit(lora={"save": "adapters"}, weights=str(base))
    other.load_state_dict(state)
    batch = batch_of(module)
    assert torch.equal(other.eval()(batch), module(batch))
    del state["backbone.head.weight"]
    with pytest.raises(RuntimeError, match="backbone.head.weight"):
        other.load_state_dict(state)


def test_the_hash_is_of_the_base_and_not_of_what_is_trained(base):
    one = vit(lora={"save": "adapters", "targets": ["qkv"]}, weights=str(base))
    two = vit(lora={"save": "adapters", "targets": ["mlp.fc1"], "rank": 2}, weights=str(base))
    fit(two)
    again = vit(lora={"save": "adapters"}, weights=str(base))
    assert one.base == two.base == again.base
    state = torch.load(base)
    state["blocks.0.attn.qkv.weight"][0, 0] += 1e-6
    torch.save(state, base)
    other = vit(lora={"save": "adapters"}, weights=str(base)).base
    with pytest.raises(InputError, match=f"model.weights={base}, differs .* {one.base.weights}$"):
        check_base(other, one.base, base)


def test_weights_of_no_dimension_have_a_fingerprint():
    """As the number of batches that a batch norm has seen."""
    state = torch.nn.BatchNorm2d(2).state_dict()
    before = fingerprint(state)
    state["num_batches_tracked"] += 1
    assert fingerprint(state) != before
