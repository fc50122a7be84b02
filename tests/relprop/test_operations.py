"""Relevance through each operation as models spell it, and through those a user registers."""

import math

import pytest
import torch
import torch.nn.functional as F

import relprop
from relprop import UnsupportedModel, rules
from relprop.recording import operations
from tests.helpers.plain import Plain, assert_same, everything, ids, pixels
from tests.helpers.walks import walk_back

RELEVANCE = ("paper", "lrp", "epsilon")
WEIGHT, BIAS = torch.randn(4, 5).double(), torch.randn(4).double()


CONSTANT = torch.randn(1, 3, 4).double()
UNCHANGED = {
    "x + 3": lambda x: x + 3,
    "3 - x": lambda x: 3 - x,
    "-x": lambda x: -x,
    "x / 3": lambda x: x / 3,
    "x / 3, true_divide": lambda x: torch.true_divide(x, 3),
    "3 / x": lambda x: 3 / x,
    "3 / x, true_divide": lambda x: torch.true_divide(3, x),
    "3 * x": lambda x: 3 * x,
    "bias": lambda x: x + CONSTANT[0, 0],
    "number of as many dimensions": lambda x: x - CONSTANT[:, :1, :1],
    "layer scale": lambda x: CONSTANT[0, 0] * x,
    "softmax": lambda x: x.softmax(-1),
    "layer norm": lambda x: F.layer_norm(x, (4,)),
    "layer norm, torch's own": lambda x: torch.layer_norm(x, (4,)),
    "GELU": F.gelu,
    "greater than a number": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "less than numbers of channels": lambda x: torch.min(x, CONSTANT[0, 0]),
}
RULED = {  # spellings of ruled operations, and the rule
    "a + b": (lambda a, b: a + b, rules.add_conserving, {}),
    "a - b": (lambda a, b: a - b, rules.add_conserving, {"alpha": -1}),
    "a - b, reversed": (lambda a, b: torch.rsub(b, a), rules.add_conserving, {"alpha": -1}),
    "a - 2 b": (lambda a, b: a.sub(b, alpha=2), rules.add_conserving, {"alpha": -2}),
    "a + 2 b": (lambda a, b: torch.add(a, b, alpha=2), rules.add_conserving, {"alpha": 2}),
    "a += b": (lambda a, b: (a * 1).add_(b), rules.add_conserving, {}),
    "a * b": (lambda a, b: a * b, rules.PAPER["mul"], {}),
    "a @ b": (lambda a, b: a @ b.mT, lambda *x, eps: transposed(*x, eps=eps), {}),
    "einsum": (lambda *x: torch.einsum("bij,bkj->bik", *x), lambda *x, eps: transposed(*x), {}),
    "einsum of a list": (
        lambda *x: torch.einsum("bij,bkj->bik", x), lambda *x, eps: transposed(*x), {}
    ),
}  # fmt: skip


def transposed(relevance, output, a, b, eps=0.0):
    R_a, R_b = rules.matmul_uniform(relevance, output, a, b.mT, eps=eps)
    return R_a, R_b.mT


@pytest.mark.parametrize("name", UNCHANGED)
def test_relevance_passes_unchanged(name):
    x, R = torch.randn(2, 3, 4).double(), torch.randn(2, 3, 4).double()
    assert torch.equal(walk_back(UNCHANGED[name], R, x)[0], R)


@pytest.mark.parametrize("name", RULED)
def test_relevance_follows_the_rule(name):
    function, rule, options = RULED[name]
    a, b = torch.randn(2, 3, 4).double(), torch.randn(2, 3, 4).double()
    y = function(a, b)
    R = torch.randn_like(y)
    expected = rule(R, y, a, b, eps=0.0, **options)
    torch.testing.assert_close(walk_back(function, R, a, b), expected)


BY_NAME = {  # tensors by position, and by their names in torch
    "add": (torch.add, lambda a, b: torch.add(other=b, input=a)),
    "sub": (lambda a, b: a - b, lambda a, b: a.sub(other=b)),
    "rsub": (lambda a, b: 3 - a * b, lambda a, b: torch.rsub(input=a * b, other=3)),
    "mul": (torch.mul, lambda a, b: torch.mul(a, other=b)),
    "div": (lambda a, b: a * b / 3, lambda a, b: torch.div(other=3, input=a * b)),
    "matmul": (lambda a, b: a @ b.mT, lambda a, b: torch.matmul(other=b.mT, input=a)),
    "bmm": (lambda a, b: a.bmm(b.mT), lambda a, b: torch.bmm(a, mat2=b.mT)),
    "mean": (lambda a, b: (a * b).mean(1), lambda a, b: torch.mean(input=a * b, dim=1)),
    "sum": (lambda a, b: (a * b).sum(1), lambda a, b: torch.sum(dim=1, input=a * b)),
    "linear": (
        lambda a, b: F.linear(a * b, WEIGHT.mT, BIAS[:1]),
        lambda a, b: F.linear(bias=BIAS[:1], weight=WEIGHT.mT, input=a * b),
    ),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_tensors_by_name(name):
    by_position, by_name = BY_NAME[name]
    a, b = torch.randn(2, 3, 4).double(), torch.randn(2, 3, 4).double()
    R = torch.randn_like(by_position(a, b))
    expected = walk_back(by_position, R, a, b)
    assert all(e.any() for e in expected)
    for f, e in zip(walk_back(by_name, R, a, b), expected, strict=True):
        assert torch.equal(f, e)


@pytest.mark.parametrize(
    "layer",
    [
        lambda x: F.linear(WEIGHT, x),
        lambda x: F.linear(x, x),
        lambda x: F.conv2d(torch.ones(2, 5, 8, 8).double(), x[..., None, None]),
    ],
)
def test_a_layer_whose_weights_are_made_of_the_input_is_refused(layer):
    """Its weight would get no relevance, and nobody would see."""
    with pytest.raises(UnsupportedModel, match="no relevance rule for .* as called here"):
        walk_back(layer, torch.ones(4, 3).double(), torch.randn(3, 5, dtype=torch.float64))


def test_tensor_by_a_name_that_no_rule_knows():
    a, b = torch.randn(2, 3, 4).double(), torch.randn(2, 3, 4).double()
    with pytest.raises(UnsupportedModel, match="mul"):
        walk_back(lambda a, b: torch.mul(x1=a, x2=b), a, a, b)


def test_relevance_of_a_linear_layer_written_by_hand():
    x, R = torch.randn(2, 3, 5).double(), torch.randn(2, 3, 4).double()
    (found,) = walk_back(lambda x: x @ WEIGHT.mT + BIAS, R, x)
    y = F.linear(x, WEIGHT, BIAS)
    torch.testing.assert_close(found, rules.linear_z_plus(R, y, x, WEIGHT, BIAS, eps=0.0))


def test_constant_stream_takes_its_share():
    """A position embedding: what it holds goes no further."""
    x, R = torch.randn(2, 3, 4).double(), torch.randn(2, 3, 4).double()
    for function in (lambda x: x + CONSTANT, lambda x: CONSTANT + x):
        expected, _ = rules.add_conserving(R, x + CONSTANT, x, CONSTANT, eps=0.0)
        torch.testing.assert_close(walk_back(function, R, x), (expected,))


def test_relevance_of_a_text_ends_where_its_embeddings_are_complete():
    """Not at the words alone: positions, added in one go or in two, are part of them."""

    def in_two(self, x):
        return self.embed(x) + self.position / 4 + 3 * self.position / 4

    assert_same(everything(Plain(text=True, tokens=in_two), ids()), everything(Plain(True), ids()))


TINY = torch.tensor(1e-6).double()
GELU = math.sqrt(2 / math.pi)
ACTIVATIONS = {
    "quick GELU": lambda x: x * torch.sigmoid(1.702 * x),
    "SiLU": lambda x: x * x.sigmoid(),
    "SiLU in place": lambda x: (x * 1).mul_(torch.sigmoid(x)),
    "tanh GELU": lambda x: 0.5 * x * (1 + torch.tanh(GELU * (x + 0.044715 * x**3))),
    "tanh GELU of products": lambda x: 0.5 * x * (1 + (GELU * (x + 0.04 * x * x * x)).tanh()),
    "erf GELU": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "hard swish": lambda x: x * F.relu6(x + 3) / 6,
    "squared ReLU": lambda x: F.relu(x).pow(2),
    "xIELU": lambda x: torch.where(
        x > 0, 0.8 * x * x + 0.5 * x, (torch.expm1(torch.min(x, -TINY)) - x) * 0.8 + 0.5 * x
    ),
}


@pytest.mark.parametrize("eps", [0.0, 1e-9])
@pytest.mark.parametrize("rule_set", RELEVANCE)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_written_by_hand_passes_relevance_unchanged(name, rule_set, eps):
    """With relevance of both signs, as it arrives in a model."""
    torch.manual_seed(0)
    x, R = torch.randn(2, 5, 8).double(), torch.randn(2, 5, 8).double()
    found = walk_back(ACTIVATIONS[name], R, x, rules=rule_set, eps=eps)
    torch.testing.assert_close(found, (R,), rtol=1e-12, atol=0)


def test_a_gated_linear_unit_is_a_gate_and_a_product():
    x, R = torch.randn(2, 5, 8).double(), torch.randn(2, 5, 4).double()
    for rule_set in (*RELEVANCE, "attnlrp", "cp_lrp"):
        (found,) = walk_back(F.glu, R, x, rules=rule_set)
        (expected,) = walk_back(lambda x: x[..., :4] * x[..., 4:].sigmoid(), R, x, rules=rule_set)
        assert expected.any() and torch.equal(found, expected)


def test_overlapping_patches_that_are_folded_share_in_proportion():
    """R_x = x * J^T s(R, J x), J being the matrix of the fold."""

    def fold(x):
        return F.fold(x, (4, 4), kernel_size=2, stride=1)

    x, R = torch.randn(2, 8, 9).double(), torch.randn(2, 2, 4, 4).double()
    J = torch.autograd.functional.jacobian(fold, x[:1])[0].flatten(0, 2).flatten(1)  # [32, 72]
    expected = x.flatten(1) * ((R.flatten(1) / (x.flatten(1) @ J.T)) @ J)
    found = walk_back(fold, R, x, rules="epsilon")[0]
    torch.testing.assert_close(found.flatten(1), expected)


def test_gate_of_another_stream_takes_half():
    x, R = torch.randn(2, 5, 8).double(), torch.randn(2, 5, 4).double()
    (found,) = walk_back(lambda x: x[..., :4] * x[..., 4:].sigmoid(), R, x)
    torch.testing.assert_close(found, torch.cat([R, R], -1) / 2)


# --------------------------------------------------------- operations that a user registers


@pytest.fixture
def registries():
    """Leaves the vocabulary and the rule sets as they were."""
    before = [(r, dict(r)) for r in (operations.OPERATIONS,)]
    yield
    for registry, content in before:
        registry.clear()
        registry.update(content)


def test_unknown_operation_until_it_is_registered(registries):
    model = Plain(activate=torch.sin)
    with pytest.raises(
        UnsupportedModel,
        match=r"no relevance rule for torch\.sin; .*relprop\.register\(torch\.sin,",
    ):
        relprop.record(model, pixels())
    relprop.register(torch.sin, "unchanged")
    (found,) = walk_back(torch.sin, torch.ones(2, 3).double(), torch.randn(2, 3).double())
    assert found.eq(1).all()
    assert everything(model, pixels())["gradient"].std() > 0


def test_registered_as_moved(registries):
    found = walk_back(lambda x: x.flip(1), torch.arange(6.0).view(2, 3), torch.randn(2, 3))
    with pytest.raises(UnsupportedModel, match="torch.fliplr"):
        walk_back(torch.fliplr, torch.arange(6.0).view(2, 3), torch.randn(2, 3))
    relprop.register(torch.fliplr, "moved")
    again = walk_back(torch.fliplr, torch.arange(6.0).view(2, 3), torch.randn(2, 3))
    assert found[0].tolist() == again[0].tolist() == [[2, 1, 0], [5, 4, 3]]


@pytest.mark.parametrize("rule_set", RELEVANCE)
def test_registered_with_a_rule(rule_set, registries):
    x, R = torch.rand(2, 3, 4).double(), torch.randn(2, 3, 4).double()
    lower = torch.ones(3, 3).double().tril()
    with pytest.raises(UnsupportedModel, match="torch.cumsum"):
        walk_back(lambda x: torch.cumsum(x, 1), R, x)
    relprop.register(torch.cumsum, relprop.rules.epsilon_of(torch.cumsum))
    for spelled in (lambda x: torch.cumsum(x, 1), lambda x: torch.cumsum(dim=1, input=x)):
        (found,) = walk_back(spelled, R, x, rules=rule_set)
        torch.testing.assert_close(found, x * (lower.T @ (R / (lower @ x))))
        torch.testing.assert_close(found.sum(dim=(1, 2)), R.sum(dim=(1, 2)))


def test_registered_and_used_before_the_first_block(registries):
    """On the way to where the patches are looked for."""

    def tokens(self, x):
        return torch.sin(Plain.tokens(self, x))

    relprop.register(torch.sin, lambda R, output, x, *, eps: R, elementwise=True)
    found = relprop.explain(Plain(tokens=tokens), pixels(), 1).relevance
    relprop.register(torch.sin, "unchanged")
    assert torch.equal(found, relprop.explain(Plain(tokens=tokens), pixels(), 1).relevance)


@pytest.mark.parametrize("rules", ["attnlrp", "cp_lrp"])
def test_registered_as_unchanged_is_unchanged_under_corrections(rules, registries):
    """By a rule set that was made before."""
    x, R = torch.randn(2, 3).double(), torch.randn(2, 3).double()
    y = torch.special.erf(x)
    expected = walk_back(torch.erf, R / y, x, rules=rules)[0]
    relprop.register(torch.special.erf, "unchanged")
    (found,) = walk_back(torch.special.erf, R / y, x, rules=rules)
    torch.testing.assert_close(found * x, R)
    torch.testing.assert_close(found, expected)
    (found,) = walk_back(lambda x: x * (1 + torch.special.erf(x)), R, x, rules="paper")
    torch.testing.assert_close(found, R)


@pytest.mark.parametrize("rules", ["attnlrp", "cp_lrp"])
def test_a_registered_rule_holds_under_corrections(rules, registries):
    x, R = torch.randn(2, 3).double(), torch.randn(2, 3).double()
    relprop.register(torch.sin, lambda R, output, x, *, eps: R)
    (found,) = walk_back(torch.sin, R / x.sin(), x, rules=rules)
    torch.testing.assert_close(found * x, R)


def test_registered_with_a_rule_it_may_mix_tokens(registries):
    """Methods that multiply attention maps refuse it, unless it is said to be elementwise."""
    relprop.register(torch.cumsum, relprop.rules.epsilon_of(torch.cumsum))
    for between in (lambda x: torch.cumsum(x, 1), lambda x: torch.cumsum(x, 2)):
        model = Plain(between=between)
        for method in ("rollout", "transformer_attribution"):
            with pytest.raises(UnsupportedModel, match=r"cumsum' to .* elementwise=True"):
                relprop.explain(model, pixels(), 1, method)
        assert relprop.explain(model, pixels(), 1, "attnlrp").relevance.std() > 0
    model = Plain(between=torch.sin)
    relprop.register(torch.sin, lambda R, output, x, *, eps: R, elementwise=True)
    found = relprop.explain(model, pixels(), 1, "rollout").relevance
    relprop.register(torch.sin, "unchanged")
    assert torch.equal(found, relprop.explain(model, pixels(), 1, "rollout").relevance)


@pytest.mark.parametrize("function", [torch.Tensor.matmul, torch.add, torch.nn.functional.gelu])
def test_what_the_engine_knows_is_not_registered_anew(function, registries):
    """All models would be explained by the new rule, and most no longer at all."""
    with pytest.raises(ValueError, match=f"{function.__name__} is known to the engine, as "):
        relprop.register(function, rules.epsilon_of(function))


def test_a_known_operation_is_not_advised_to_be_registered():
    with pytest.raises(UnsupportedModel) as refused:
        walk_back(
            lambda a, b: a / b, torch.ones(2, 3).double(), *torch.ones(2, 2, 3).double().unbind()
        )
    message = str(refused.value)
    assert "div as called here, of a tensor [2, 3] and a tensor [2, 3]" in message
    assert "register" not in message


def test_register_refuses_what_is_no_rule():
    with pytest.raises(ValueError, match="rule is 'same'; accepted: 'moved', 'unchanged'"):
        relprop.register(torch.sin, "same")


EXPONENTS = {
    "of a number": lambda x: torch.pow(2.0, x),
    "of a number, by name": lambda x: torch.pow(2.0, exponent=x),
    "of a number, as an operator": lambda x: 2.0**x,
    "of a constant": lambda x: torch.pow(CONSTANT.abs() + 1, x),
    "of itself": lambda x: (x.abs() + 1) ** x,
    "clamped by itself": lambda x: torch.clamp(x, min=-x),
}


@pytest.mark.parametrize("name", EXPONENTS)
def test_a_stream_as_exponent_is_what_relevance_passes_to(name):
    x, R = torch.randn(1, 3, 4).double(), torch.randn(1, 3, 4).double()
    (found,) = walk_back(EXPONENTS[name], R, x)
    torch.testing.assert_close(found, R)
    y = EXPONENTS[name](x)
    (found,) = walk_back(EXPONENTS[name], R / y, x, rules="attnlrp")
    torch.testing.assert_close(found * x, R)


SEVERAL = {
    "pow": lambda a, b: torch.pow(a.abs() + 1, b),
    "pow by name": lambda a, b: torch.pow(a.abs() + 1, exponent=b),
    "operator": lambda a, b: (a.abs() + 1) ** b,
    "clamp": lambda a, b: torch.clamp(a, min=b),
    "prelu": lambda a, b: F.prelu(a, b[0, 0, :3]),
    "layer norm": lambda a, b: F.layer_norm(a, (4,), b[0, 0], b[0, 0]),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_an_activation_or_a_norm_of_two_streams_is_refused(name):
    """All relevance would go to the first."""
    a, b = torch.randn(2, 3, 4).double(), torch.randn(2, 3, 4).double()
    with pytest.raises(UnsupportedModel, match="as called here"):
        walk_back(SEVERAL[name], torch.ones(2, 3, 4).double(), a, b)
