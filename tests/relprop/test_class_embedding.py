"""States of blocks in the space of the classes, against arrays of the published implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.deit import VisionTransformerDistilled
from timm.models.pit import PoolingVisionTransformer
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import Tensor

import relprop
from lightning_modules.metrics import identifiability
from relprop import UnsupportedModel
from relprop.methods.states import _cross_entropy_gradient
from tests.helpers.differences import picture, text
from tests.helpers.plain import Plain, fused, pixels

FILE = Path(__file__).parents[1] / "reference" / "seeds" / "class_embedding.npz"
CLASS = torch.tensor([1, 2])


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(FILE) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.fixture(scope="module")
def trace(reference) -> relprop.Trace:
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
    model = VisionTransformer(**sizes, mlp_ratio=2, num_classes=7).double()
    names = {name: f"w_{name.replace('.', '_')}" for name in model.state_dict()}
    model.load_state_dict({name: reference[array] for name, array in names.items()})
    return relprop.record(model, reference["x"])


def same(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_logits_and_attention_are_those_published(trace, reference):
    same(trace.logits, reference["logits"])
    same(torch.stack(trace.attention, dim=1), reference["attention"])


def test_states_of_blocks_are_those_published(trace, reference):
    same(torch.stack(trace.states(), dim=1), reference["hidden"])


@pytest.mark.parametrize(
    "of, array",
    [
        ("block", "projected_hidden"),
        ("attention", "projected_attention_output"),
        ("mlp", "projected_mlp_output"),
    ],
)
def test_class_logits_of_every_token_are_those_published(of, array, trace, reference):
    found = [trace.project(state) for state in trace.states(of)]
    same(torch.stack(found, dim=1), reference[array])


def test_ranks_of_the_true_class_are_those_published(trace, reference):
    z = torch.stack([trace.project(state) for state in trace.states()], dim=1)
    found = identifiability(z, reference["target"])
    same(found, reference["identifiability"])
    assert torch.equal((7 * (1 - found)).round().long(), reference["rank_of_target"])


def test_gradients_of_the_blocks_decisions_are_those_published(trace, reference):
    target = reference["target"]
    for arriving, array in (
        (lambda z: _cross_entropy_gradient(z, target), "grad_cross_entropy_cls_row"),
        (lambda z: F.one_hot(target, 7).to(z), "grad_logit_cls_row"),
    ):
        G = torch.stack(trace.branch_gradient(arriving), dim=1)  # [B, blocks, H, N, N]
        same(G[..., 0, :], reference[array])
        assert not G[..., 1:, :].any()  # the head reads the class token alone


def test_class_gradient_is_the_importance_that_is_published(trace, reference):
    found = relprop.explain_trace(trace, reference["target"], "class_gradient").relevance
    same(found, reference["token_importance"])
    last = relprop.explain_trace(trace, reference["target"], "class_gradient", start_layer=2)
    same(last.relevance, -reference["grad_cross_entropy_cls_row"][:, 2].sum(dim=1)[:, 1:])


def test_class_projection_is_the_logit_of_the_last_block_less_the_mean(trace, reference):
    found = relprop.explain_trace(trace, 3, "class_projection").relevance
    z = reference["projected_hidden"][:, 2, 1:]
    same(found, z[..., 3] - z.mean(dim=-1))


def test_against_another_class(trace, reference):
    found = relprop.explain_trace(trace, 3, "class_projection", against=1).relevance
    z = reference["projected_hidden"][:, 2, 1:]
    same(found, z[..., 3] - z[..., 1])
    with pytest.raises(UnsupportedModel, match="cross entropy of one class; accepted: no against="):
        relprop.explain_trace(trace, 3, "class_gradient", against=1)


# ------------------------------------------------------------------------------------ identity


def logits_by_hand(model: VisionTransformer, h: Tensor) -> Tensor:
    """Of states [B, N, D], with the modules of timm."""
    h = model.norm(h)
    heads = [model.head, model.head_dist] if hasattr(model, "head_dist") else [model.head]
    return torch.stack([head(model.fc_norm(h)) for head in heads]).mean(dim=0)


IDENTITY = {
    "class token": lambda: picture(),
    "registers": lambda: picture(reg_tokens=2),
    "LayerScale": lambda: picture(init_values=0.5),
    "distilled": lambda: picture(VisionTransformerDistilled),
    "mean-pooled": lambda: picture(global_pool="avg"),
    "mean-pooled, no class token": lambda: picture(global_pool="avg", class_token=False),
    "parallel": lambda: picture(block_fn=ParallelScalingBlock),
}


@pytest.mark.parametrize("name", IDENTITY)
def test_the_last_block_has_the_models_logits(name):
    model, images = IDENTITY[name]()
    trace = relprop.record(model, images)
    last = trace.states()[-1]
    assert torch.equal(trace._blocks.logits(last).detach(), trace.logits)
    for state in trace.states():
        same(trace.project(state), logits_by_hand(model, state).detach())
    read = {"mean-pooled": last[:, 1:].mean(1), "mean-pooled, no class token": last.mean(1)}
    if name in read:
        same(trace.project(read[name][:, None])[:, 0], trace.logits)
    elif name == "distilled":
        h = model.norm(last)
        assert torch.equal((model.head(h[:, 0]) + model.head_dist(h[:, 1])) / 2, trace.logits)
    else:
        same(trace.project(last)[:, 0], trace.logits)


@pytest.mark.parametrize("name", ["class token", "registers", "LayerScale", "distilled"])
def test_states_and_branches_are_those_of_timms_modules(name):
    model, images = IDENTITY[name]()
    kept = {"block": [], "attention": [], "mlp": []}
    for block in model.blocks:
        block.register_forward_hook(lambda *x: kept["block"].append(x[2]))
        block.ls1.register_forward_hook(lambda *x: kept["attention"].append(x[2]))
        block.ls2.register_forward_hook(lambda *x: kept["mlp"].append(x[2]))
    model(images)
    expected = {of: [x.detach() for x in of_blocks] for of, of_blocks in kept.items()}
    trace = relprop.record(model, images)
    for of, of_blocks in expected.items():
        for found, x in zip(trace.states(of), of_blocks, strict=True):
            same(found, x)


@pytest.mark.parametrize("kind", ["Bert", "DistilBert"])
def test_states_of_a_text_are_after_the_norm_of_their_block(kind):
    model, inputs = text(kind)
    out = model(**inputs, output_hidden_states=True)
    trace = relprop.record(model, inputs)
    for found, expected in zip(trace.states(), out.hidden_states[1:], strict=True):
        same(found, expected.detach())
    for state in trace.states():
        if kind == "Bert":
            expected = model.classifier(model.bert.pooler.dense(state).tanh())
        else:
            expected = model.classifier(model.pre_classifier(state).relu())
        same(trace.project(state), expected.detach())
    same(trace.project(trace.states()[-1])[:, 0], out.logits.detach())


# -------------------------------------------------------------------------------- class_gradient


@pytest.mark.parametrize("name", [x for x in IDENTITY if x != "parallel"])
def test_class_gradient_is_that_of_a_block_run_by_hand(name):
    """Of the equations, with autograd's own cross entropy, from the attention maps on."""
    model, images = IDENTITY[name]()
    prefix, expected = model.num_prefix_tokens, 0
    trace = relprop.record(model, images)
    entering = [trace.entering(CLASS, b)[0] for b in range(3)]
    for block, x in zip(model.blocks, entering, strict=True):
        q, k, v = (
            block.attn.qkv(block.norm1(x)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        )  # fmt: skip
        A = (q @ k.mT * 8**-0.5).softmax(dim=-1).detach().requires_grad_()
        branch = block.ls1(block.attn.proj((A @ v).transpose(1, 2).flatten(2)))
        z = model.forward_head(model.norm(branch))
        loss = F.cross_entropy(z.softmax(dim=-1), F.one_hot(CLASS, 4).double(), reduction="sum")
        (G,) = torch.autograd.grad(loss, A)
        expected = expected - G.sum(dim=(1, 2))
    found = relprop.explain_trace(trace, CLASS, "class_gradient").relevance
    same(found, expected[:, prefix:])


def test_several_classes_at_once():
    trace = relprop.record(*picture())
    for method in ("class_gradient", "class_projection"):
        together = relprop.explain_classes(trace, [0, CLASS], method)
        for target, found in zip([0, CLASS], together, strict=True):
            same(found.relevance, relprop.explain_trace(trace, target, method).relevance)


def test_a_state_is_the_same_whatever_the_padding():
    model, inputs = text("Bert")
    alone = {name: x[1:, :5] for name, x in inputs.items()}
    for method in ("class_gradient", "class_projection"):
        found = relprop.explain(model, inputs, 1, method).relevance
        same(found[1:, :5], relprop.explain(model, alone, 1, method).relevance)
        assert not found[1, 5:].any()


# -------------------------------------------------------------------------------- what is refused


class TwoLevels(Plain):
    """Its head reads two blocks."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        seen = []
        for block in self.blocks:
            y, _ = fused(*block.heads(block.norm1(x)))
            x = x + block.out(y.transpose(1, 2).flatten(2))
            x = x + block.fc2(block.fc1(block.norm2(x)).relu())
            seen.append(x[:, 0])
        return self.head(self.norm(seen[-1]) + self.norm(seen[-2]))


@pytest.mark.parametrize("method", ["class_gradient", "class_projection"])
def test_a_head_that_reads_several_blocks_is_refused(method):
    with pytest.raises(UnsupportedModel, match="is read beside what the next ones put out"):
        relprop.explain(TwoLevels(), pixels(), 1, method)


def test_blocks_of_several_sizes_have_no_logits():
    """Those of stages: the head reads [B, 17, 32] of the last, and others have more tokens."""
    sizes = {"img_size": 64, "patch_size": 16, "stride": 8, "depth": (1, 1), "heads": (2, 4)}
    model = PoolingVisionTransformer(**sizes, stem_type="overlap", base_dims=(8, 8), mlp_ratio=2)
    trace = relprop.record(model.eval(), torch.randn(2, 3, 64, 64))
    with pytest.raises(UnsupportedModel, match=r"\[2, 50, 16\] has no logits.*accepted: blocks"):
        relprop.explain_trace(trace, 0, "class_gradient")
    with pytest.raises(UnsupportedModel, match=r"reads states \[2, 17, 32\].*accepted: blocks"):
        trace.project(trace.states()[0])


def test_a_model_without_attention_is_refused():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(432, 3)).double()
    with pytest.raises(UnsupportedModel, match="no attention map was seen"):
        relprop.explain(model, pixels(), 1, "class_projection")


def test_blocks_without_a_residual_are_refused():
    model = Plain(add=lambda x, y: y)
    with pytest.raises(UnsupportedModel, match="does not add its attention to its tokens"):
        relprop.explain(model, pixels(), 1, "class_gradient")
