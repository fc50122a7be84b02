"""A recording whose maps have a graph to the parameters: gradients, and what is left alone."""

import gc

import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import relprop
from relprop import UnsupportedModel
from tests.helpers.differences import (
    MODELS,
    both_derivatives,
    jittered,
    map_of,
    picture,
    right,
    text,
)
from tests.helpers.methods import OF_ALL_INPUTS, OF_TEXTS
from tests.helpers.plain import Plain, pixels

WITH_ATTENTION = ("generic_attention", "rollout", "raw_attention", "gradcam", "bimodal_attention")


def logits_of(model, inputs) -> Tensor:
    returned = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return getattr(returned, "logits", returned)


# ------------------------------------------------------------------------------- right gradients


OF_ALL_MODELS = "generic_attention gradcam rollout raw_attention transformer_attribution attnlrp"


@pytest.mark.parametrize(
    "name, method",
    [
        (name, method)
        for name in MODELS
        for method in (OF_TEXTS if "BERT" in name else OF_ALL_INPUTS)
        if name in ("class token", "BERT, SDPA") or method in OF_ALL_MODELS.split()
    ],
)
def test_the_gradient_is_the_one_that_is_measured(name, method):
    """Along one change of all parameters; of each by itself in tests/soak."""
    model, inputs = MODELS[name]()
    every = {name: torch.randn_like(x) for name, x in model.named_parameters()}
    ((found, measured),) = both_derivatives(model, inputs, method, every)
    assert found == right(measured, method)


@pytest.mark.parametrize("method", OF_TEXTS)
@pytest.mark.parametrize("differentiable", ["attention", "exact"])
def test_the_map_is_the_same(method, differentiable):
    for name in ("registers", "BERT, SDPA"):
        if "BERT" not in name and method not in OF_ALL_INPUTS:
            continue
        model, inputs = MODELS[name]()
        if differentiable == "attention" and method not in (*WITH_ATTENTION, "attnlrp_attention"):
            continue
        expected = map_of(model, inputs, method)
        found = map_of(model, inputs, method, differentiable)
        assert found.requires_grad
        assert torch.equal(found.detach(), expected)


def attention_of(block, x: Tensor) -> tuple[Tensor, Tensor]:
    """A [B, H, N, N] and V [B, H, N, d] of a block of timm."""
    own = block.attn
    q, k, v = own.qkv(block.norm1(x)).unflatten(-1, (3, own.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return (q @ k.mT * own.scale).softmax(-1), v


@pytest.mark.parametrize("start_layer", [0, 1])
def test_a_constant_gradient_is_that_of_the_equations_written_out(start_layer):
    """R = (I + E_h (G A)^+) R of a ViT run by hand, G being detached."""
    model, images = picture()
    x = model.patch_embed(images)
    x = torch.cat([model.cls_token.expand(2, -1, -1), x], dim=1) + model.pos_embed
    maps = []
    for block in model.blocks:
        A, v = attention_of(block, x)
        maps.append(A)
        x = x + block.attn.proj((A @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    y = model.head(model.norm(x)[:, 0])[:, 1].sum()
    G = torch.autograd.grad(y, maps, retain_graph=True)
    R = torch.eye(17, dtype=torch.float64)
    for A, g in list(zip(maps, G, strict=True))[start_layer:]:
        R = R + (g * A).relu().mean(dim=1) @ R
    expected = R[:, 0, 1:]
    found = map_of(model, images, "generic_attention", "attention", start_layer=start_layer)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    parameters, weights = list(model.parameters()), torch.randn_like(found)
    ours, theirs = (
        torch.autograd.grad((m * weights).sum(), parameters, allow_unused=True)
        for m in (found, expected)
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(*(0 if g is None else g for g in (a, b)), rtol=0, atol=1e-11)


def test_parameters_that_are_made_of_others():
    """Weights of a parametrization, and a constant that is trained."""
    model, inputs = picture()
    weight_norm(model.blocks[1].mlp.fc1)
    attention = model.blocks[2].attn
    attention.fused_attn = False  # which takes no scale
    attention.scale = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
    names = ("blocks.1.mlp.fc1.parametrizations.weight.original0", "blocks.2.attn.scale")
    each = [{n: torch.ones_like(dict(model.named_parameters())[n])} for n in names]
    for found, measured in both_derivatives(model, inputs, "generic_attention", *each):
        assert measured != 0
        assert found == right(measured, "generic_attention")


class Spelled(nn.Module):
    """Weights of which a rule takes something made anew: a scale, or a transpose."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.by_hand = nn.Parameter(torch.randn(6, 6))
        self.added = transformers.pytorch_utils.Conv1D(4, 6)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm(self.conv(x))).mean(dim=(2, 3))
        return self.added(F.gelu(x @ self.by_hand))


@pytest.mark.parametrize("name", ["norm.weight", "by_hand", "added.weight"])
@pytest.mark.parametrize("method", ["attnlrp", "lrp"])
def test_weights_of_which_a_rule_takes_something_else(name, method):
    model = jittered(Spelled())
    direction = {name: torch.ones_like(dict(model.named_parameters())[name])}
    pictures = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    ((found, measured),) = both_derivatives(model, pictures, method, direction)
    assert measured != 0
    assert found == right(measured, method)


def test_a_resnet_has_no_attention_to_be_trained():
    model = timm.create_model("test_resnet", num_classes=4)
    trace = relprop.record(model, torch.rand(1, 3, 32, 32), differentiable="attention")
    for method in ("attnlrp", "generic_attention"):
        with pytest.raises(ValueError, match="attention"):
            relprop.explain_trace(trace, 1, method)


def test_a_parameter_that_is_a_source_has_a_gradient(tiny_vit, images):
    """Class token and positions of a text are added to what is learned."""
    model = Plain()
    trace = relprop.record(model, pixels(), differentiable="exact", learned=["prefix"])
    found = relprop.explain_trace(trace, 1, "attnlrp").sources["prefix"].relevance
    (gradient,) = torch.autograd.grad(found.square().sum(), model.prefix)
    assert gradient.any()


# --------------------------------------------------------------------------- what is left alone


@pytest.mark.parametrize("method", OF_TEXTS)
def test_after_a_walk_the_gradient_of_a_loss_is_the_plain_one(method):
    for name in ("class token", "BERT, SDPA"):
        if "BERT" not in name and method not in OF_ALL_INPUTS:
            continue
        model, inputs = MODELS[name]()
        parameters, labels = list(model.parameters()), torch.tensor([0, 2])
        trace = relprop.record(model, inputs, differentiable="exact")
        relprop.explain_trace(trace, 1, method)
        found = torch.autograd.grad(F.cross_entropy(trace.output, labels), parameters)
        plain = torch.autograd.grad(F.cross_entropy(logits_of(model, inputs), labels), parameters)
        for ours, theirs in zip(found, plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("with_backward", [True, False])
def test_nothing_leaks(with_backward):
    """Without the collector: nothing is kept by a cycle."""
    model, inputs = picture()

    def tensors() -> int:
        trace = relprop.record(model, inputs, differentiable="exact")
        loss = relprop.explain_trace(trace, 1).relevance.sum() + trace.output.sum()
        if with_backward:
            loss.backward()
        del trace, loss
        model.zero_grad()
        return sum(type(x) is Tensor for x in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        counts = [tensors() for _ in range(3)]
    finally:
        gc.enable()
    assert len(set(counts)) == 1


def test_frozen_parameters_get_none():
    model, inputs = picture()
    model.requires_grad_(False).head.requires_grad_(True)
    map_of(model, inputs, "generic_attention", "exact").sum().backward()
    with_gradient = {name for name, x in model.named_parameters() if x.grad is not None}
    assert "head.weight" in with_gradient <= {"head.weight", "head.bias"}


def test_a_caller_may_have_turned_gradients_off():
    model, inputs = picture()
    with torch.no_grad():
        found = map_of(model, inputs, "generic_attention", "exact")
    assert found.requires_grad


def test_maps_that_are_flat_have_gradients_that_are_numbers():
    """GradCAM divides by the range of a map, which is 0 where nothing speaks for the class."""
    model, inputs = picture()
    model.head.weight.data.zero_()
    found = map_of(model, inputs, "gradcam", "exact")
    assert not found.detach().any()
    for gradient in torch.autograd.grad(found.sum(), model.parameters(), allow_unused=True):
        assert gradient is None or not gradient.any()


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("given", [True, "gradient", 1, None])
def test_other_kinds_are_refused(given):
    with pytest.raises(ValueError, match="differentiable is .*; accepted: False, 'attention'"):
        relprop.record(*picture(), differentiable=given)


def test_explain_says_who_takes_it():
    with pytest.raises(ValueError, match=r"relprop\.record\(\.\.\., differentiable='exact'\)"):
        relprop.explain(*picture(), differentiable="exact")


@pytest.mark.parametrize("method", ["transformer_attribution", "attnlrp", "lrp", "libra"])
def test_a_map_without_attention_in_it_has_no_constant_gradient(method):
    model, inputs = picture()
    with pytest.raises(ValueError, match="depend on attention maps by constants alone"):
        map_of(model, inputs, method, "attention")


def test_a_frozen_model_is_refused():
    model, inputs = picture()
    with pytest.raises(ValueError, match="no parameter of the model requires grad"):
        map_of(model.requires_grad_(False), inputs, "generic_attention", "exact")


def test_a_second_backward_is_refused_in_words():
    model, inputs = picture()
    trace = relprop.record(model, inputs, differentiable="exact")
    relprop.explain_trace(trace, 1).relevance.sum().backward()
    with pytest.raises(RuntimeError, match="accepted: a recording for each backward"):
        relprop.explain_trace(trace, 1)


class Unseen(torch.autograd.Function):
    """The recorder does not see into it."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize("of", ["a weight", "the input"])
def test_code_that_is_not_seen_is_refused(of):
    model, inputs = text("Bert")
    query = model.bert.encoder.layer[1].attention.self.query

    def forward(x):
        weight = Unseen.apply(query.weight) if of == "a weight" else query.weight
        return F.linear(Unseen.apply(x) if of == "the input" else x, weight, query.bias)

    query.forward = forward
    with pytest.raises(UnsupportedModel, match="came out of code that is not a torch function"):
        relprop.record(model, inputs, differentiable="exact")
