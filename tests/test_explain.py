"""explain(): timm's models unmodified, every method, its options, its errors and its cost."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import relprop
from relprop import UnsupportedModel

# ------------------------------------------------------------------------------ timm's models

MODELS = {  # the model: what makes it small, its grid and its prefix tokens
    "vit_tiny_patch16_224": ({"img_size": 64}, (4, 4), 1),
    "deit_tiny_patch16_224": ({"img_size": (64, 96)}, (4, 6), 1),
    "deit_tiny_distilled_patch16_224": ({"img_size": 64}, (4, 4), 2),
    "deit3_small_patch16_224": ({"img_size": 64}, (4, 4), 1),
    "vit_small_patch16_224": ({"img_size": 64, "global_pool": "avg"}, (4, 4), 1),
    "vit_small_patch14_reg4_dinov2": ({"img_size": 56, "num_classes": 10}, (4, 4), 5),
    "vit_base_patch16_clip_224": ({"img_size": 64, "depth": 4}, (4, 4), 1),
}


def create(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    options, grid, _ = MODELS[name]
    model = timm.create_model(name, pretrained=False, **options)
    height, width = (n * model.patch_embed.patch_size[0] for n in grid)
    return model, torch.randn(2, 3, height, width)


@pytest.mark.parametrize("name", MODELS)
def test_timm_models_unmodified(name):
    model, images = create(name)
    _, grid, prefix = MODELS[name]
    trace = relprop.record(model, images)
    assert (trace.grid, trace.prefix) == (grid, prefix)
    with torch.no_grad():
        torch.testing.assert_close(trace.logits, model.eval()(images), rtol=1e-4, atol=1e-5)
    classes = trace.logits.shape[1]
    assert len(trace.attention) == len(model.blocks)
    for method in relprop.METHODS:
        explanation = relprop.explain_trace(trace, torch.tensor([0, classes - 1]), method)
        shape = tuple(images.shape[2:]) if method == "lrp" else grid
        assert explanation.grid == shape
        assert explanation.relevance.shape == (2, shape[0] * shape[1])
        assert explanation.relevance.isfinite().all()
        if method == "gradcam":  # may be all clamped
            assert explanation.relevance.ge(0).all() and explanation.relevance.le(1).all()
        else:
            assert (explanation.relevance.std(dim=1) > 0).all(), method


REFUSED = {
    "swin_tiny_patch4_window7_224": "attention within windows",
    "resnet18": "no relevance rule for .*max_pool2d",
    "cait_xxs24_224": "lead from some tokens to others",
    "mixer_s32_224": "no attention map was seen",
    "vit_base_patch16_siglip_224": "no relevance rule for .*matmul",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    size = {} if name in ("resnet18", "cait_xxs24_224") else {"img_size": 224}
    depth = {"depth": 1} if "vit" in name or "cait" in name else {}
    model = timm.create_model(name, pretrained=False, **size, **depth)
    with pytest.raises(UnsupportedModel, match=REFUSED[name]):
        relprop.explain(model, torch.randn(1, 3, 224, 224))


# --------------------------------------------------------------------------------- batches

KINDS = {  # kinds of models: options of timm's VisionTransformer
    "class token": {},
    "average": {"global_pool": "avg"},
    "no class token": {"global_pool": "avg", "class_token": False},
    "registers": {"reg_tokens": 2},
    "layer scale": {"init_values": 0.1},
}


@pytest.mark.parametrize("method", relprop.METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_batch_is_as_one_by_one(kind, method, tiny_vit, images):
    model, target = tiny_vit(**KINDS[kind]), torch.tensor([0, 3, 1])
    images = images * torch.tensor([1.0, 0.1, 10.0])[:, None, None, None]
    together = relprop.explain(model, images, target, method)
    for b in range(3):
        alone = relprop.explain(model, images[b : b + 1], int(target[b]), method)
        difference = (together.relevance[b] - alone.relevance[0]).abs().max()
        assert difference <= 1e-9 * alone.relevance.abs().max()
    shuffled = relprop.explain(model, images[[2, 0, 1]], target[[2, 0, 1]], method)
    torch.testing.assert_close(shuffled.relevance, together.relevance[[2, 0, 1]])


# --------------------------------------------------------------------------------- readout


def readout(model: nn.Module, images: Tensor) -> Tensor:
    w = relprop.record(model, images).readout(torch.tensor([0, 1, 2]))
    torch.testing.assert_close(w.sum(dim=1), torch.ones(3, dtype=w.dtype))
    assert w.ge(0).all()
    return w


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 2}, {"init_values": 0.1}])
def test_readout_of_a_class_token(options, tiny_vit, images):
    w = readout(tiny_vit(**options), images)
    assert w[:, 0].eq(1).all() and w[:, 1:].eq(0).all()


def test_readout_of_a_distilled_model(images):
    from timm.models.deit import VisionTransformerDistilled

    torch.manual_seed(0)
    model = VisionTransformerDistilled(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5
    ).double()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    w = readout(model, images)
    assert w[:, :2].gt(0).all() and w[:, 2:].eq(0).all()
    explanation = relprop.explain(model, images)
    assert explanation.relevance.shape == (3, 16) and explanation.grid == (4, 4)


def test_readout_of_an_average(tiny_vit, images):
    """timm averages the patches, not the class token."""
    w = readout(tiny_vit(global_pool="avg"), images)
    assert w[:, 0].eq(0).all() and w[:, 1:].gt(0).all()
    w = readout(tiny_vit(global_pool="avg", class_token=False), images)
    assert w.gt(0).all()


def test_map_is_the_readouts_mixture_of_rows(tiny_vit, images):
    trace, target = relprop.record(tiny_vit(global_pool="avg"), images), torch.tensor([0, 1, 2])
    G, R = trace.gradient(target), trace.relevance(target)
    product = torch.eye(17, dtype=torch.float64).expand(3, 17, 17)
    for g, r in zip(G, R, strict=True):
        product = (torch.eye(17) + (g * r).clamp(min=0).mean(1)) @ product
    expected = (trace.readout(target)[:, None] @ product)[:, 0, 1:]
    torch.testing.assert_close(relprop.explain_trace(trace, target).relevance, expected)


# --------------------------------------------------------------------------- what is explained


def test_target(tiny_vit, images):
    model = tiny_vit()
    predicted = relprop.explain(model, images)
    assert torch.equal(predicted.target, predicted.logits.argmax(1))
    for target in (2, torch.tensor(2), torch.tensor([2, 2, 2]), torch.tensor([2.0] * 3).int()):
        explanation = relprop.explain(model, images, target)
        assert explanation.target.tolist() == [2, 2, 2]
        assert explanation.target.dtype == torch.int64
        expected = relprop.explain(model, images, torch.tensor([2] * 3)).relevance
        assert torch.equal(explanation.relevance, expected)
    mixed = torch.tensor([4, 2, 0])
    found = relprop.explain(model, images, mixed).relevance
    assert torch.equal(found[1], expected[1]) and not torch.allclose(found[0], expected[0])


@pytest.mark.parametrize(
    "target, message",
    [
        (5, r"target is 5; accepted: classes 0 to 4"),
        (-1, r"target is -1; accepted: classes 0 to 4"),
        (torch.tensor([0, 1, 5]), r"target is 5; accepted: classes 0 to 4"),
        (torch.tensor([0, 1]), r"shape \[2\]; accepted: None, a class or 3 of them"),
        (torch.zeros(3, 1).long(), r"shape \[3, 1\]; accepted: None, a class or 3 of them"),
        (torch.zeros(3), r"type torch.float32 .* accepted: None, a class or 3 of them"),
        (1.0, r"type torch.float32 .* accepted: None, a class or 3 of them"),
    ],
)
def test_wrong_target(target, message, tiny_vit, images):
    with pytest.raises(ValueError, match=message):
        relprop.explain(tiny_vit(), images, target)


class Never(nn.Module):
    def forward(self, x):
        raise AssertionError("the model was run before the options were checked")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "attention"}, "method is 'attention'; accepted: transformer_attribution, gen"),
        ({"precision": "bf8"}, "precision is 'bf8'; accepted: None .the model's., bf16"),
        ({"layer": 1}, "unknown option 'layer'; accepted: start_layer, rules, eps, normalize_r"),
    ],
)
def test_wrong_method_or_option(options, message, images):
    with pytest.raises(ValueError, match=message):
        relprop.explain(Never(), images, **options)


@pytest.mark.parametrize("method", relprop.METHODS)
def test_wrong_start_layer(method, tiny_vit, images):
    trace = relprop.record(tiny_vit(), images)
    for start_layer in (3, -1):
        with pytest.raises(ValueError, match=f"start_layer is {start_layer}; accepted: 0 to 2"):
            relprop.explain_trace(trace, method=method, start_layer=start_layer)


@pytest.mark.parametrize("method", relprop.METHODS)
def test_rules_and_eps_are_accepted_by_every_method(method, tiny_vit, images):
    trace = relprop.record(tiny_vit(), images)
    for options in ({"rules": "paper"}, {"rules": relprop.rules.LRP, "eps": 0.0}):
        assert relprop.explain_trace(trace, method=method, **options).relevance.isfinite().all()
    with pytest.raises(ValueError, match="rules is 'ours'; accepted: paper, lrp, or a rule set"):
        relprop.explain_trace(trace, method=method, rules="ours")


@pytest.mark.parametrize(
    "inputs, message",
    [
        (torch.randn(3), r"a batch is \[B, ...\], B > 0"),
        (torch.randn(0, 3, 32, 32), r"a batch is \[B, ...\], B > 0"),
        ({"x": 3}, "inputs hold no tensor"),
        ({}, "inputs hold no tensor"),
    ],
)
def test_wrong_inputs(inputs, message, tiny_vit):
    with pytest.raises(ValueError, match=message):
        relprop.explain(tiny_vit(), inputs)


def test_inputs_by_keyword(tiny_vit, images):
    found = relprop.explain(tiny_vit(), {"x": images})
    assert torch.equal(found.relevance, relprop.explain(tiny_vit(), images).relevance)


def test_start_layer_leaves_lower_blocks_out(tiny_vit, images):
    trace, target = relprop.record(tiny_vit(), images), torch.tensor([0, 1, 2])
    last = relprop.explain_trace(trace, target, start_layer=2).relevance
    one = relprop.explain_trace(trace, target, "last_block").relevance
    torch.testing.assert_close(last, one)
    whole = relprop.explain_trace(trace, target).relevance
    assert (whole - last).abs().max() > 1e-3 * whole.abs().max()


def test_rows_are_normalised_on_demand(tiny_vit, images):
    trace, target = relprop.record(tiny_vit(), images), torch.tensor([0, 1, 2])
    G, R = trace.gradient(target), trace.relevance(target)
    row = trace.readout(target)[:, None]
    for g, r in zip(reversed(G), reversed(R), strict=True):
        mixed = torch.eye(17) + (g * r).clamp(min=0).mean(1)
        row = row @ (mixed / mixed.sum(-1, keepdim=True))
    found = relprop.explain_trace(trace, target, normalize_rows=True).relevance
    torch.testing.assert_close(found, row[:, 0, 1:])


def test_many_questions_to_one_trace(tiny_vit, images):
    """In any order, they do not disturb each other."""
    model = tiny_vit()
    trace = relprop.record(model, images)
    questions = [
        {"target": target, "method": method, "rules": rules, "eps": eps}
        for target in (0, 4)
        for method in ("transformer_attribution", "lrp", "gradcam", "partial_lrp")
        for rules in ("paper", "lrp")
        for eps in (0.0, 1e-3)
    ]
    answers = [relprop.explain(model, images, **q).relevance for q in questions]
    for _ in range(2):
        for question, answer in reversed(list(zip(questions, answers, strict=True))):
            found = relprop.explain_trace(trace, **question).relevance
            assert torch.equal(found, answer)
    different = {tuple(a.flatten().tolist()) for a in answers}
    assert len(different) > len(answers) / 2  # gradcam does not depend on eps and rules


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("method", relprop.METHODS)
def test_many_classes_are_as_one_by_one(method, pool, tiny_vit, images):
    trace = relprop.record(tiny_vit(global_pool=pool), images)
    targets = [3, torch.tensor([0, 1, 4]), None]
    together = relprop.explain_classes(trace, targets, method)
    for found, target in zip(together, targets, strict=True):
        expected = relprop.explain_trace(trace, target, method)
        assert torch.equal(found.target, expected.target)
        torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", relprop.METHODS)
def test_one_explanation_is_that_of_a_recording_and_frees_it(tiny_vit, images, method, monkeypatch):
    expected = relprop.explain_trace(relprop.record(tiny_vit(), images), 1, method)
    grad, kept = torch.autograd.grad, []

    def watched(outputs, *args, retain_graph, **kwargs):
        if getattr(outputs, "shape", None) == expected.logits.shape:
            kept.append(retain_graph)  # rules may walk back as well, through what is theirs
        return grad(outputs, *args, retain_graph=retain_graph, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", watched)
    found = relprop.explain(tiny_vit(), images, 1, method)
    assert torch.equal(found.relevance, expected.relevance)
    walks_only_the_head = method in ("rollout", "raw_attention")
    assert kept[-1] is walks_only_the_head and all(kept[:-1])


def test_no_classes(tiny_vit, images):
    assert relprop.explain_classes(relprop.record(tiny_vit(), images), []) == []


def test_a_rule_of_its_own_above_the_last_attention_map(tiny_vit, images):
    """What precision="bf16" needs: the projection, the MLP and the head, and no other layers."""
    seen = []

    def counted(name):
        def rule(relevance, output, input, weight, *args, eps):
            seen.append((name, weight.shape[0]))
            return relprop.rules.linear_z_plus(relevance, output, input, weight, *args, eps=eps)

        return rule

    own = {"linear": counted("below"), relprop.rules.ABOVE_ATTENTION + "linear": counted("above")}
    model = tiny_vit()
    found = relprop.explain(model, images, 1, "lrp", rules={**relprop.rules.PAPER, **own})
    block = model.blocks[-1]
    head = (model.head, block.mlp.fc2, block.mlp.fc1, block.attn.proj)
    above = [("above", layer.out_features) for layer in head]
    assert seen[:5] == [*above, ("below", block.attn.qkv.out_features)]
    assert len(seen) == 4 * len(model.blocks) + 1
    assert {name for name, _ in seen[5:]} == {"below"}
    plain = relprop.explain(model, images, 1, "lrp", rules="paper")
    assert torch.equal(found.relevance, plain.relevance)


def test_bf16_hardly_changes_a_map(tiny_vit, images):
    model = tiny_vit().float()
    precise = relprop.explain(model, images.float(), 1).relevance
    fast = relprop.explain(model, images.float(), 1, precision="bf16").relevance
    assert not torch.equal(fast, precise)
    for maps in zip(fast, precise, strict=True):
        assert torch.corrcoef(torch.stack(maps))[0, 1] > 0.99


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_bf16_gives_a_map_in_the_precision_of_the_model(tiny_vit, images, dtype):
    found = relprop.explain(tiny_vit().to(dtype), images.to(dtype), 1, precision="bf16")
    assert found.relevance.dtype == dtype


def test_a_method_made_of_others(tiny_vit, images, monkeypatch):
    """None of those that it is made of frees what the next one walks back over."""
    monkeypatch.setattr("relprop.methods.METHODS", dict(relprop.METHODS))
    monkeypatch.setattr("relprop.explanation.METHODS", relprop.methods.METHODS)
    parts = ("transformer_attribution", "generic_attention")

    @relprop.method("sum")
    def sum_of_both(trace, target, options):
        return sum(relprop.methods.METHODS[name](trace, target, options) for name in parts)

    model = tiny_vit()
    expected = sum(relprop.explain(model, images, 1, name).relevance for name in parts)
    assert torch.equal(relprop.explain(model, images, 1, "sum").relevance, expected)


def test_a_method_from_outside(tiny_vit, images):
    @relprop.method("uniform", rules="lrp")
    def uniform(trace, target, options):
        assert options.rules is relprop.rules.LRP
        return torch.ones(len(target), 17)

    try:
        explanation = relprop.explain(tiny_vit(), images, method="uniform")
        assert explanation.relevance.eq(1).all() and explanation.relevance.shape == (3, 16)
    finally:
        del relprop.METHODS["uniform"]


# -------------------------------------------------------------------------------- heatmaps


@pytest.mark.parametrize("method", ["transformer_attribution", "lrp"])
def test_heatmap(method, tiny_vit):
    model = tiny_vit(img_size=(32, 48))
    explanation = relprop.explain(model, torch.randn(2, 3, 32, 48).double(), method=method)
    assert explanation.heatmap(40).shape == (2, 40, 40)
    assert explanation.heatmap((32, 48)).shape == (2, 32, 48)
    assert torch.equal(explanation.heatmap(explanation.grid).flatten(1), explanation.relevance)
    rows, columns = explanation.grid
    assert explanation.relevance.shape == (2, rows * columns)


def test_heatmap_lies_where_the_relevance_is():
    relevance = torch.zeros(1, 6)
    relevance[0, 5] = 1  # last row, last column
    explanation = relprop.Explanation(relevance, torch.tensor([0]), torch.zeros(1, 2), (2, 3))
    heatmap = explanation.heatmap((20, 30))[0]
    assert heatmap[15:, 25:].eq(1).all() and heatmap[:5].eq(0).all() and heatmap[:, :15].eq(0).all()


def test_heatmap_of_text():
    explanation = relprop.Explanation(torch.ones(1, 6), torch.tensor([0]), torch.zeros(1, 2), None)
    with pytest.raises(ValueError, match="there is no grid of patches"):
        explanation.heatmap(8)


def test_grid_of_an_image_follows_the_patches(tiny_vit):
    """A bright patch far from the others is found where it is: rows are rows."""
    model = tiny_vit(img_size=(32, 48), depth=1)
    with torch.no_grad():
        model.pos_embed.zero_()
    images = torch.zeros(1, 3, 32, 48).double()
    images[:, :, 8:16, 40:48] = torch.randn(3, 8, 8).double()
    relevance = relprop.explain(model, images, 0, "raw_attention").relevance.view(4, 6)
    odd = relevance - relevance.median()
    assert odd.abs().argmax() == 1 * 6 + 5 and (odd.abs() > 1e-9).sum() == 1


# ------------------------------------------------------------------------------------ cost


def products(run) -> int:
    """Floating point operations of all matrix products."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.fixture(scope="module", params=["token", "avg"])
def priced(request):
    """A model, its input, and what a forward pass of it costs."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, global_pool=request.param)
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


def test_cost_of_further_classes(priced):
    """Gradient 1 + relevance 2: the denominators of the z+ rule are the same for all classes."""
    model, images, forward = priced
    trace = relprop.record(model, images)
    one, ten = (products(lambda n=n: relprop.explain_classes(trace, range(n))) for n in (1, 10))
    assert ten - one <= 9 * 3.05 * forward


def test_nothing_below_the_attention_that_is_needed(priced):
    """Each block left out saves its share of gradient and relevance: 4 passes over 12 blocks."""
    model, images, forward = priced
    starts = [0, 1, 6, 11]
    costs = [products(lambda n=n: relprop.explain(model, images, start_layer=n)) for n in starts]
    for start, cost in zip(starts, costs, strict=True):
        assert costs[0] - cost == pytest.approx(start * 4 * forward / 12, rel=0.1)
    assert costs[-1] <= 1.3 * forward


@pytest.mark.parametrize("name", ["linear_z_plus", "linear_z_plus_bf16", "linear_signs_apart"])
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
