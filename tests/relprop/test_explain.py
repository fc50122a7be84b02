"""explain(): every method, its options and its errors."""

import copy

import pytest
import torch
from torch import Tensor, nn

import relprop
from tests.helpers.methods import OF_ALL_INPUTS, crossed

# --------------------------------------------------------------------------------- batches

KINDS = {  # kinds of models: options of timm's VisionTransformer
    "class token": {},
    "average": {"global_pool": "avg"},
    "no class token": {"global_pool": "avg", "class_token": False},
    "registers": {"reg_tokens": 2},
    "layer scale": {"init_values": 0.1},
}


@pytest.mark.parametrize(("kind", "method"), crossed(KINDS))
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
    w = relprop.record(model, images).token_weights(torch.tensor([0, 1, 2]))
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
    expected = (trace.token_weights(target)[:, None] @ product)[:, 0, 1:]
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
        (True, r"type torch.bool .* accepted: None, a class or 3 of them"),
        ("cat", r"target is 'cat'; accepted: None, a class or 3 of them"),
    ],
)
def test_wrong_target(target, message, tiny_vit, images):
    with pytest.raises(ValueError, match=message):
        relprop.explain(tiny_vit(), images, target)
    with pytest.raises(ValueError, match=message.replace("target", "against")):
        relprop.explain(tiny_vit(), images, 1, against=target)


@pytest.mark.parametrize("target, against", [(1, 1), (torch.tensor([0, 1, 2]), 1), (None, None)])
def test_a_class_against_itself_is_refused(target, against, tiny_vit, images):
    """Its map would be of zeros."""
    trace = relprop.record(tiny_vit(), images)
    against = trace.logits.argmax(1) if against is None else against
    with pytest.raises(
        ValueError, match=r"against is \d, the class that is explained of sample \d"
    ):
        relprop.explain_trace(trace, target, "lrp", against=against)


class Never(nn.Module):
    def forward(self, x):
        raise AssertionError("the model was run before the options were checked")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "attention"}, "method is 'attention'; accepted: transformer_attribution, gen"),
        ({"eps": -1.0}, "eps is -1.0; accepted: a number, 0 or more"),
        ({"eps": float("nan")}, "eps is nan; accepted"),
        ({"eps": "a"}, "eps is 'a'; accepted"),
        ({"start_layer": "1"}, "start_layer is '1'; accepted"),
        ({"start_layer": True}, "start_layer is True; accepted: a whole number"),
        ({"normalize_rows": "no"}, "normalize_rows is 'no'; accepted: True, False"),
        ({"rules": 3}, "rules is 3; accepted: paper, lrp, .* a mapping from operations to rules"),
        ({"rules": {"linaer": print}}, "rules has 'linaer', no operation; accepted: .*linear"),
        ({"rules": {"linear": "z+"}}, "rules has 'z.' for 'linear'; accepted: a function"),
        ({"output": 3}, "output is 3; accepted: a function from what the model returns"),
        ({"output": len, "position": 1}, "position is of the model's own logits.*one of the two"),
        ({"position": "last"}, "position is 'last'; accepted: a whole number, or 3 of them"),
        ({"position": 1.5}, "position is 1.5; accepted: a whole number, or 3 of them"),
        ({"position": True}, "position is True; accepted: a whole number, or 3 of them"),
        (
            {"position": torch.arange(4)},
            r"position is a tensor of .* shape \[4\]; accepted: a whole",
        ),
        ({"learned": "head.weight"}, "learned is 'head.weight'; accepted: a list of names"),
        ({"precision": "bf8"}, "precision is 'bf8'; accepted: None .the model's., bf16"),
        ({"layer": 1}, "unknown option 'layer'; accepted: start_layer, rules, eps, normalize_r"),
    ],
)
def test_wrong_method_or_option(options, message, images):
    with pytest.raises(ValueError, match=message):
        relprop.explain(Never(), images, **options)


@pytest.mark.parametrize("method", OF_ALL_INPUTS)
def test_wrong_start_layer(method, tiny_vit, images):
    trace = relprop.record(tiny_vit(), images)
    for start_layer in (3, -1):
        with pytest.raises(ValueError, match=f"start_layer is {start_layer}; accepted: 0 to 2"):
            relprop.explain_trace(trace, method=method, start_layer=start_layer)


@pytest.mark.parametrize("method", OF_ALL_INPUTS)
def test_rules_and_eps_are_accepted_by_every_method(method, tiny_vit, images):
    trace = relprop.record(tiny_vit(), images)
    for options in ({"rules": "paper"}, {"rules": relprop.rules.LRP, "eps": 0.0}):
        assert relprop.explain_trace(trace, method=method, **options).relevance.isfinite().all()
    with pytest.raises(
        ValueError, match="rules is 'ours'; accepted: paper, lrp, epsilon, attnlrp, cp_lrp, agf, "
    ):
        relprop.explain_trace(trace, method=method, rules="ours")


@pytest.mark.parametrize(
    "inputs, message",
    [
        (torch.randn(3), r"^inputs have shape \[3\]; accepted: a batch \[B, N\] or .*B > 0"),
        (torch.randn(0, 3, 32, 32), r"accepted: a batch .*B > 0"),
        ({"b": torch.randn(2)}, r"^inputs 'b' have shape \[2\]; accepted: a batch \[B, N\] or"),
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
    row = trace.token_weights(target)[:, None]
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
@pytest.mark.parametrize("method", OF_ALL_INPUTS)
def test_many_classes_are_as_one_by_one(method, pool, tiny_vit, images):
    trace = relprop.record(tiny_vit(global_pool=pool), images)
    targets = [3, torch.tensor([0, 1, 4]), None]
    together = relprop.explain_classes(trace, targets, method)
    for found, target in zip(together, targets, strict=True):
        expected = relprop.explain_trace(trace, target, method)
        assert torch.equal(found.target, expected.target)
        torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", sorted(n for n, m in relprop.METHODS.items() if m.frees_graph))
def test_one_explanation_is_that_of_a_recording_and_frees_it(tiny_vit, images, method, monkeypatch):
    expected = relprop.explain_trace(relprop.record(tiny_vit(), images), 1, method)
    traces, record = [], relprop.explaining.record
    monkeypatch.setattr(
        relprop.explaining, "record", lambda *x, **k: traces.append(record(*x, **k)) or traces[-1]
    )
    found = relprop.explain(tiny_vit(), images, 1, method)
    assert torch.equal(found.relevance, expected.relevance)
    (trace,) = traces
    with pytest.raises(RuntimeError, match="the graph of the recording is freed"):
        trace.gradient(trace.logits.argmax(-1))


@pytest.mark.parametrize("method", ["transformer_attribution", "lrp"])
def test_no_classes(method, tiny_vit, images):
    assert relprop.explain_classes(relprop.record(tiny_vit(), images), [], method) == []


def test_a_rule_of_its_own_above_the_last_attention_map(tiny_vit, images):
    """What precision="bf16" needs: the projection, the MLP and the head, and no other layers."""
    seen = []

    def counted(name):
        def rule(relevance, output, input, weight, *args, eps):
            seen.append((name, weight.shape[0]))
            return relprop.rules.linear_z_plus(relevance, output, input, weight, *args, eps=eps)

        return rule

    below, above = counted("below"), counted("above")

    def own(operation, block, depth):
        if operation != "linear":
            return relprop.rules.PAPER.get(operation)
        return above if block == depth else below

    model = tiny_vit()
    found = relprop.explain(model, images, 1, "lrp", rules=own)
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
    monkeypatch.setattr("relprop.methods.base.METHODS", copy.deepcopy(relprop.METHODS))
    for module in ("explaining", "from_trace"):
        monkeypatch.setattr(f"relprop.{module}.METHODS", relprop.methods.base.METHODS)
    parts = ("transformer_attribution", "generic_attention")

    @relprop.method("sum")
    def sum_of_both(trace, target, options):
        return sum(relprop.METHODS[name](trace, target, options) for name in parts)

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
