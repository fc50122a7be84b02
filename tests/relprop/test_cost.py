"""What an explanation costs, in floating point operations of its matrix products."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import relprop


def products(run) -> int:
    """Floating point operations of all matrix products."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


DEPTH = 6


@pytest.fixture(scope="module", params=["token", "avg"])
def priced(request):
    """A model, its input, and what a forward pass of it costs."""
    options = {"img_size": 64, "depth": DEPTH, "global_pool": request.param}
    model = timm.create_model("vit_tiny_patch16_224", **options)
    images = torch.randn(1, 3, 64, 64)
    return model, images, products(lambda: model(images))


@pytest.mark.parametrize(
    "method, passes",
    [
        ("transformer_attribution", 5.05),
        ("generic_attention", 2.05),
        ("rollout", 1.02),
        ("raw_attention", 1.02),
    ],
)
def test_cost(method, passes, priced):
    """forward 1 + gradient 1 + relevance 3."""
    model, images, forward = priced
    cost = products(lambda: relprop.explain(model, images, method=method))
    assert forward <= cost <= passes * forward


def test_a_recording_costs_a_forward_pass(priced):
    """To find out where tokens went costs no matrix product."""
    model, images, forward = priced
    assert products(lambda: relprop.record(model, images)) == forward


def test_cost_of_further_classes(priced):
    """Gradient 1 + relevance 2: the denominators of the z+ rule are the same for all classes."""
    model, images, forward = priced
    trace = relprop.record(model, images)
    one, ten = (products(lambda n=n: relprop.explain_classes(trace, range(n))) for n in (1, 10))
    assert ten - one <= 9 * 3.05 * forward


def test_nothing_below_the_attention_that_is_needed(priced):
    """Each block left out saves its share of gradient and relevance: 4 passes over all blocks."""
    model, images, forward = priced
    starts = [0, 1, 3, DEPTH - 1]
    costs = [products(lambda n=n: relprop.explain(model, images, start_layer=n)) for n in starts]
    for start, cost in zip(starts, costs, strict=True):
        assert costs[0] - cost == pytest.approx(start * 4 * forward / DEPTH, rel=0.1)
    assert costs[-1] <= (1 + 3.6 / DEPTH) * forward


@pytest.mark.parametrize("name", ["linear_z_plus", "linear_z_plus_bf16", "linear_signwise"])
def test_tokens_without_relevance_cost_nothing(name):
    rule = getattr(relprop.rules, name)
    x, W = torch.randn(2, 17, 8), torch.randn(4, 8)
    R = torch.rand(2, 17, 4)
    R[:, 1:] = 0
    class_token = (t[:, :1] for t in (R, x @ W.T, x))
    one = products(lambda: rule(*class_token, W, eps=1e-9))
    assert products(lambda: rule(R, x @ W.T, x, W, eps=1e-9)) == one + products(lambda: x @ W.T)


def test_no_weight_gradients(priced):
    """All parameters require grad or none does: the same work."""
    model, images, _ = priced
    trained = products(lambda: relprop.explain(model, images))
    frozen = products(lambda: relprop.explain(model.requires_grad_(False), images))
    model.requires_grad_(True)
    assert trained == frozen


def guided(model, images, differentiable) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of a recording, and a loss on its map."""
    trace = relprop.record(model, images, differentiable=differentiable)
    maps = relprop.explain_trace(trace, 1, "generic_attention").relevance
    masks = (torch.arange(maps.shape[1]) < 4).expand_as(maps)
    return trace.output, relprop.guidance_loss(maps, masks)


@pytest.mark.parametrize(
    "differentiable, alone, beside", [("attention", 4.15, 7.2), ("exact", 6.35, 9.4)]
)
def test_cost_of_a_loss_on_maps(differentiable, alone, beside, priced):
    """Forward 1 + gradient 1, and backward twice that of what is differentiated; a plain step 3."""
    model, images, forward = priced
    label = torch.tensor([1])

    def from_one_recording():
        logits, of_map = guided(model, images, differentiable)
        (F.cross_entropy(logits, label) + of_map).backward()

    def beside_a_plain_pass():
        _, of_map = guided(model, images, differentiable)
        (F.cross_entropy(model(images), label) + of_map).backward()

    assert products(from_one_recording) <= alone * forward
    assert products(beside_a_plain_pass) <= beside * forward
