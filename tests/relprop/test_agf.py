"""Attribution Guided Factorization, against published arrays and equations written out slowly."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vgg import VGG
from torch import Tensor, nn

import relprop
from relprop import rules
from relprop.rules import agf
from relprop.rules.agf import factorization, probability
from relprop.rules.guided import At
from tests.helpers.differences import jittered

SEEDS = Path(__file__).parents[1] / "reference" / "seeds"
EPS = 1e-9  # as published


def arrays(name: str) -> dict[str, Tensor]:
    with np.load(SEEDS / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


LAYER, NET = arrays("agf_layer"), arrays("agf_net")


def close(found: Tensor, expected: Tensor, atol: float = 1e-8) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def only(*kept: str, **more) -> rules.Guided:
    """The published form with some parts of the residual alone."""
    return agf(**{f"no_{part}": part not in kept for part in ("a", "fx", "fdx", "m")}, **more)


def of_conv(chosen: rules.Guided, relevance, x, weight, gradient, *args, **kwargs) -> Tensor:
    """The rule of a convolution of a network without attention."""
    at = None if gradient is None else At(gradient)
    rule = chosen.rules("conv", 0, 0)
    return rule(relevance, None, x, weight, None, *args, eps=EPS, at=at, **kwargs)


# ------------------------------------------------------------------------- one published layer


def layer(chosen: rules.Guided, gradient: Tensor | None = LAYER["grad_out"]) -> Tensor:
    weight = LAYER["weight"][:, :, None, None]
    return of_conv(chosen, LAYER["relevance_in"], LAYER["X"], weight, gradient)


@pytest.mark.parametrize(
    "name, chosen",
    [
        ("full", agf()),
        ("c_only", only()),
        ("a", only("a")),
        ("fdx", only("fdx")),
        ("fx", only("fx")),
        ("m", only("m")),
        ("fx_m_no_reg", only("fx", "m", no_reg=True)),
    ],
)
def test_each_part_of_the_published_residual(name, chosen):
    close(layer(chosen), LAYER[f"result_{name}"])


def test_without_a_gradient_it_is_c():
    close(layer(agf(), None), LAYER["result_flat"])
    close(layer(agf(), None), LAYER["C"])


@pytest.mark.parametrize("name, of", [("F_x", "X"), ("F_dx", "grad_in_masked")])
def test_the_published_factorization(name, of):
    phi = LAYER["C"].mean(dim=1, keepdim=True).flatten(2)
    close(factorization(LAYER[of].flatten(2), phi, EPS).view(2, 1, 4, 4), LAYER[name])


# ------------------------------------------------------------- the equations, an entry at a time


def s(a: float, b: float) -> float:
    return a / (b + np.copysign(EPS, b)) if b else 0.0


def slow_factorization(V, phi) -> np.ndarray:
    V = np.vectorize(s)(V, V.max())
    K = 1 / (1 + np.exp(-10 * V))  # [I, P]
    r = np.zeros((len(V), 2))
    for part, members in enumerate((phi < 0, phi > 0)):
        for i in range(len(V)):
            r[i, part] = s(K[i, members].sum(), members.sum())
    w = np.maximum(np.linalg.inv(r.T @ r + np.eye(2)) @ r.T @ K, 0)
    return np.maximum(w[1] - w[0], 0)


def slow_layer(R, x, W, g_out, with_gradcam=False) -> np.ndarray:
    """Steps 1 to 6 of one sample: R, g_out [O, Q]; x [I, P]; W [O, Q, I, P]."""
    (outs, qs), (ins, ps) = R.shape, x.shape
    C, A, g, g_masked = (np.zeros((ins, ps)) for _ in range(4))
    for o in range(outs):
        for q in range(qs):
            share, alone = (s(R[o, q], (z * abs(W[o, q])).sum()) for z in (abs(x), np.ones_like(x)))
            C += abs(x) * share * abs(W[o, q])
            A += alone * abs(W[o, q])
            g += g_out[o, q] * W[o, q]
            g_masked += g_out[o, q] * W[o, q] * (R[o, q] != 0)
    M = np.maximum((x * g).mean(axis=0), 0)
    M, phi = np.vectorize(s)(M, M.max()), C.mean(axis=0)
    guided = slow_factorization(x, phi) + M
    if with_gradcam:
        guided = np.maximum((x * g_masked.mean(axis=1, keepdims=True)).mean(axis=0), 0)
    residual = A + slow_factorization(g_masked, phi) + guided / (1 + np.exp(-C))
    there = C != 0
    residual = residual * there
    return C + residual - there * residual.sum() / there.sum()


@pytest.mark.parametrize("options", [{}, {"gradcam": True}])
@pytest.mark.parametrize("kind", [{"stride": 2, "padding": 1}, {"groups": 2, "dilation": 2}])
def test_signed_relevance_of_a_convolution(options, kind):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    x[:, :, :2, :2] = 0
    weight = torch.randn(6, 4 // kind.get("groups", 1), 3, 3, dtype=torch.float64)
    output = F.conv2d(x, weight, **kind)
    matrix = torch.func.jacrev(lambda x: F.conv2d(x[None], weight, **kind)[0])(x[0])
    relevance, gradient = torch.randn_like(output), torch.randn_like(output)
    relevance[:, :, 0] = 0
    relevance[0, 0] *= 100  # a part whose phi is negative, and one whose phi is positive
    found = of_conv(agf(**options), relevance, x, weight, gradient, **kind)
    W = matrix.flatten(1, 2).flatten(3).numpy()
    for b in range(2):
        R, g = (t[b].flatten(1).numpy() for t in (relevance, gradient))
        expected = slow_layer(R, x[b].flatten(1).numpy(), W, g, "gradcam" in options)
        close(found[b].flatten(1), torch.from_numpy(expected))
        close(found[b].sum(), relevance[b].sum(), 1e-6)


def test_nothing_arrives_and_nothing_leaves():
    weight = LAYER["weight"][:, :, None, None]
    nothing = torch.zeros_like(LAYER["relevance_in"])
    assert not of_conv(agf(), nothing, LAYER["X"], weight, LAYER["grad_out"]).any()


def test_the_probability_that_is_explained():
    logits = torch.tensor([[1.0, -2.0, 0.5], [2.0, 2.0, 2.0]], dtype=torch.float64)
    y, t = logits[0].numpy(), 2
    sigma = max(abs(y - y[t]))
    scores = [y[t] * np.exp(-(((y_c - y[t]) / sigma) ** 2) / 2) for y_c in y]
    expected = np.exp(scores[t]) / np.exp(scores).sum()
    found = probability(logits, torch.tensor([t, 0]))
    close(found, torch.tensor([expected, 1 / 3], dtype=torch.float64), 1e-12)
    gradient = torch.func.grad(lambda y: probability(y, torch.tensor([t, 0])).sum())(logits)
    assert gradient.isfinite().all() and gradient[0].all()


# ------------------------------------------------------------------------- the published network


def published() -> nn.Sequential:
    conv = [nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)]
    features = [conv[0], nn.ReLU(), conv[1], nn.ReLU(), nn.MaxPool2d(2)]
    features += [nn.Conv2d(8, 12, 3, padding=1), nn.ReLU()]
    classifier = [nn.Linear(48, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5)]
    named = {"features": nn.Sequential(*features), "pool": nn.AdaptiveAvgPool2d(2)}
    named |= {"flatten": nn.Flatten(), "classifier": nn.Sequential(*classifier)}
    model = nn.Sequential()
    for name, module in named.items():
        model.add_module(name, module)
    for name, parameter in model.named_parameters():
        parameter.data = NET[name.replace(".", "_")]
    return model.double()


def test_the_maps_of_the_published_network():
    """Relevance passes a ReLU unchanged here; there it is multiplied by x / (x + 1e-9)."""
    trace = relprop.record(published(), NET["x"])
    close(trace.logits, NET["logits"])
    for target in range(5):
        found = relprop.explain_trace(trace, target, "agf", eps=EPS)
        assert found.grid == (16, 16)
        close(found.relevance.view(2, 16, 16), NET["heatmaps"][:, target], 1e-6)


def test_the_relevance_of_every_layer_of_the_published_network():
    model, seen = published(), {}

    def see(name):
        return lambda module, args: seen.update({name: args[0]})

    for i, module in enumerate(model.features):
        module.register_forward_pre_hook(see(f"class2_relevance_into_feature{i}"))
    model.classifier[0].register_forward_pre_hook(see("class2_before_avgpool"))
    trace = relprop.record(model, NET["x"])
    found = trace._read(list(seen.values()), torch.tensor([2, 2]), "agf", EPS)
    assert len(seen) == 8
    for name, relevance in zip(seen, found, strict=True):
        close(relevance, NET[name], 1e-6)


# ---------------------------------------------------------- which layers have it, as published


def guided_layers(model: nn.Module, images: Tensor) -> dict[str, bool]:
    """Convolutions whose rule was given the gradient, and whether as a fully connected layer."""
    names = {x.data_ptr(): name for name, x in model.named_parameters()}
    found, usual = {}, agf().rules

    @rules.wants_gradient
    def conv(relevance, output, input, weight, *args, eps, at, **kwargs):
        if at is not None:
            found[names[weight.data_ptr()]] = at.map is not None
        rule = usual("conv", 0, 0)
        return rule(relevance, output, input, weight, *args, eps=eps, at=at, **kwargs)

    def spied(operation, block, depth):
        return conv if operation == "conv" else usual(operation, block, depth)

    relprop.explain(model, images, 1, "agf", rules=rules.Guided(spied))
    return found


@pytest.mark.parametrize("block, conv", [(BasicBlock, "conv1"), (Bottleneck, "conv2")])
def test_the_layers_of_a_residual_network(block, conv, images):
    torch.manual_seed(0)
    model = jittered(ResNet(block, (1, 2, 1, 1), num_classes=4, channels=(8, 8, 16, 16)))
    blocks = ("layer1.0", "layer2.0", "layer2.1", "layer3.0", "layer4.0")
    expected = {f"{name}.{conv}.weight": False for name in blocks}
    assert guided_layers(model, images) == expected


def test_the_layers_of_a_vgg_of_timm(images):
    torch.manual_seed(0)
    model = VGG(cfg=[8, "M", 8, 8, "M"], num_classes=4, mlp_ratio=1 / 512)
    found = guided_layers(jittered(model), images[..., :28, :28])
    weights = ("features.3.weight", "features.5.weight", "pre_logits.fc1.weight")
    assert found == {weights[0]: False, weights[1]: False, weights[2]: True}


def test_ablations_of_a_convolutional_network():
    names = ("no_a", "no_fx", "no_fdx", "no_m", "no_reg", "gradcam")
    options = [agf(), only(), *(agf(**{name: True}) for name in names)]
    trace = relprop.record(published(), NET["x"])
    maps = [relprop.explain_trace(trace, 1, "agf", rules=chosen).relevance for chosen in options]
    maps.append(relprop.explain_trace(trace, 1, "agf_without_gradient").relevance)
    assert all(not torch.allclose(a, b) for i, a in enumerate(maps) for b in maps[:i])
