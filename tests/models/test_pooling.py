"""Attention-based aggregation: the published layer, and the option pool of the ViT classifier."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import relprop
from lightning_modules import ViTClassifier
from lightning_modules.export import EXPORTS
from lightning_modules.models.pooling import AttentionPool, HeadPerClass, pool_by
from lightning_modules.models.vit_backbone import create_backbone, without_decay
from lightning_modules.utils.errors import InputError

FILE = Path(__file__).parents[1] / "reference" / "seeds" / "patchconvnet_pooling.npz"
SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
INPUT = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(FILE) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def published(reference: dict[str, Tensor], of: str, heads: int, classes: int | None = None):
    """A layer with the stored weights, and the eps that they were used with."""
    layer = AttentionPool(16, heads, classes=classes).double()
    state = {
        name: reference[f"{of}_w_{name.replace('.', '_')}"]
        for name in layer.state_dict()
        if name != "query"
    }
    state["query"] = reference[f"{of}_cls"][0]
    layer.load_state_dict(state)
    for norm in (layer.norm1, layer.norm2):
        norm.eps = float(reference["layer_norm_eps_in_blocks"])
    return layer


def same(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("heads", [1, 4])
def test_the_layer_its_map_and_the_logits_are_those_published(reference, heads):
    of = f"h{heads}"
    assert torch.equal(*reference[f"{of}_cls"])  # the query is one for all samples
    layer, norm, head = (
        published(reference, of, heads),
        nn.LayerNorm(16, eps=1e-6),
        nn.Linear(16, 5),
    )
    same(layer(reference[f"{of}_x"]), reference[f"{of}_out"][:, 0])
    for name, module in {"norm": norm, "head": head}.items():
        module.double().load_state_dict(
            {x: reference[f"{of}_{name}_{x}"] for x in ("weight", "bias")}
        )
    model = nn.Sequential(nn.Linear(16, 16).double(), layer, norm, head)
    nn.init.eye_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    trace = relprop.record(model, reference[f"{of}_x"])
    same(trace.logits, reference[f"{of}_logits"])
    same(trace.attention[0], reference[f"{of}_attention"])


def test_the_layer_of_a_query_a_class_is_the_one_published(reference):
    assert torch.equal(*reference["multi_cls"])
    layer = published(reference, "multi", 1, classes=5)
    same(layer(reference["multi_x"]), reference["multi_out"])


def test_each_class_is_read_by_its_own_row_of_the_head():
    head, x = HeadPerClass(4, 3), torch.randn(2, 3, 4)
    expected = [[head.weight[k] @ x[b, k] + head.bias[k] for k in range(3)] for b in range(2)]
    torch.testing.assert_close(head(x), torch.stack([torch.stack(row) for row in expected]))


# ------------------------------------------------------------------ options of the classifier


def classifier(names=NAMES, **options) -> ViTClassifier:
    torch.manual_seed(0)
    sizes = {name: value for name, value in SIZES.items() if name != "img_size"}
    options = {"name": "vit_tiny_patch16_224", "model_options": sizes} | options
    return ViTClassifier(names, INPUT, **options)


@pytest.mark.parametrize("pool", ["token", "avg", "attention", "attention_per_class"])
def test_logits_are_those_of_the_pooled_tokens(pool):
    """The final norm comes after pooling, and the class token is there where it is read."""
    backbone = classifier(pool=pool, pool_init=1.0).double().eval().backbone
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    tokens = backbone.patch_embed(x)
    if pool == "token":
        tokens = torch.cat([backbone.cls_token.expand(2, -1, -1), tokens], dim=1)
    tokens = backbone.blocks(tokens + backbone.pos_embed)
    norm, head = backbone.fc_norm, backbone.head
    if pool == "token":
        expected = head(backbone.norm(tokens)[:, 0])
    elif pool == "avg":
        expected = head(norm(tokens.mean(dim=1)))
    elif pool == "attention":
        expected = head(norm(backbone.attn_pool(tokens)))
    else:
        c = norm(backbone.attn_pool(tokens))
        expected = torch.stack([head.weight[k] @ c[:, k].T + head.bias[k] for k in range(3)], 1)
    torch.testing.assert_close(backbone(x), expected)


def test_weights_of_a_model_with_a_class_token_stay_but_for_that_token():
    plain = create_backbone("vit_tiny_patch16_224", 3, False, SIZES)
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    pool_by(plain, "attention", 1, 1.0)
    after = plain.state_dict()
    torch.testing.assert_close(after["pos_embed"], before["pos_embed"][:, 1:])
    torch.testing.assert_close(after["fc_norm.weight"], before["norm.weight"])
    moved = {"pos_embed", "cls_token", "norm.weight", "norm.bias"}
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - moved)


def test_query_and_gammas_do_not_decay_and_are_trained_with_a_frozen_backbone():
    model = classifier(pool="attention", freeze_backbone=True)
    names = {name for name, x in model.backbone.named_parameters() if x.requires_grad}
    assert names == {n for n, _ in model.backbone.named_parameters() if "attn_pool" in n} | {
        "head.weight", "head.bias"
    }  # fmt: skip
    assert without_decay(model.backbone) >= {f"attn_pool.{x}" for x in ("query", "gamma_1")}
    by_name = {id(x): name for name, x in model.backbone.named_parameters()}
    decayed = {
        by_name[id(x)] for g in model.parameter_groups() if g["weight_decay"] for x in g["params"]
    }
    assert "attn_pool.attn.q.weight" in decayed
    assert not decayed & {f"attn_pool.{x}" for x in ("query", "gamma_1", "gamma_2")}


@pytest.mark.parametrize(
    "options, said",
    [
        ({"pool": "attention", "name": "swin_tiny_patch4_window7_224", "model_options": None},
         "model.pool is attention, and the model is a SwinTransformer; accepted: a plain ViT"),
        ({"pool": "attention", "pool_heads": 3},
         "model.pool_heads is 3, and the model has 16 channels; accepted: a divisor"),
        ({"pool": "token", "model_options": {"class_token": False, "global_pool": "avg"}},
         "model.pool is token, and the model has no class token; accepted: avg, attention"),
    ],
)  # fmt: skip
def test_what_cannot_be_pooled_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        classifier(**options)


def test_a_query_goes_with_its_class(tmp_path):
    """Also where the new run has the classes in another order; and begins anew with others."""
    module = classifier(pool="attention_per_class").eval()
    nn.init.normal_(module.backbone.attn_pool.query, std=3)  # other than a new one
    EXPORTS.find("safetensors")(module).write(tmp_path)
    weights = str(tmp_path / "model.safetensors")
    theirs = module.backbone.state_dict()
    turned = classifier(["c", "a", "b"], pool="attention_per_class", weights=weights)
    for name, value in turned.backbone.state_dict().items():
        order = [2, 0, 1] if name in ("attn_pool.query", "head.weight", "head.bias") else ...
        assert torch.equal(value, theirs[name][order]), name
    others = classifier(["c", "d", "b"], pool="attention_per_class", weights=weights)
    ours = others.backbone.state_dict()
    assert not torch.equal(ours["attn_pool.query"], theirs["attn_pool.query"])
    assert torch.equal(ours["attn_pool.gamma_1"], theirs["attn_pool.gamma_1"])


def test_weights_with_a_class_token_are_those_of_the_trunk(tmp_path):
    plain = classifier().backbone.state_dict()
    torch.save(plain, tmp_path / "weights.pth")
    found = classifier(pool="attention", weights=str(tmp_path / "weights.pth"))
    ours = found.backbone.state_dict()
    assert torch.equal(ours["pos_embed"], plain["pos_embed"][:, 1:])
    same = [name for name in plain if name.startswith(("blocks.", "patch_embed.", "head."))]
    assert all(torch.equal(ours[name], plain[name]) for name in same)
