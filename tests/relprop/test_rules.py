"""Each rule against a slow, obvious re-implementation of its equation: one sample, Python loops."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from relprop import rules

SIZE = st.integers(1, 4)
EPS = st.sampled_from([0.0, 1e-9, 0.5])


@st.composite
def tensor_makers(draw):
    """A function (*shape) -> tensor: of normal numbers, or of -2..2, with zeros and ties."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    if draw(st.booleans()):
        return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    return lambda *shape: torch.randint(-2, 3, shape, generator=generator).double()


def check(**strategies):
    """A property of 25 random cases."""
    return lambda test: settings(max_examples=25, deadline=None)(given(**strategies)(test))


def assert_equal(found, expected):
    found, expected = (x if isinstance(x, tuple) else (x,) for x in (found, expected))
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-8, atol=1e-10)


# ---------------------------------------------------------------- the paper, one sample at a time


def s(a: float, b: float, eps: float) -> float:
    return 0.0 if b == 0 else a / (b + math.copysign(eps, b))


def indices(x: Tensor):
    return product(*(range(n) for n in x.shape))


def stack(samples: list):
    """Results of single samples, tensors or tuples of tensors, as a batch."""
    if isinstance(samples[0], tuple):
        return tuple(torch.stack(parts) for parts in zip(*samples, strict=True))
    return torch.stack(samples)


def slow_linear_z_plus(R: Tensor, x: Tensor, W: Tensor, eps: float) -> Tensor:
    """One token: R [out], x [in], W [out, in]."""
    relevance = torch.zeros_like(x)
    for j in range(len(R)):
        Z = sum(max((x[i] * W[j, i]).item(), 0) for i in range(len(x)))
        for i in range(len(x)):
            relevance[i] += max((x[i] * W[j, i]).item(), 0) * s(R[j].item(), Z, eps)
    return relevance


def slow_linear_signs_apart(R: Tensor, x: Tensor, W: Tensor, eps: float) -> Tensor:
    """One token, shapes as above."""
    relevance = torch.zeros_like(x)
    for sign in (1, -1):
        x_part, W_part = sign * (sign * x).clamp(min=0), sign * (sign * W).clamp(min=0)
        for j in range(len(R)):
            Z = sum((x_part[i] * W_part[j, i]).item() for i in range(len(x)))
            for i in range(len(x)):
                relevance[i] += x_part[i] * W_part[j, i] * s(R[j].item(), Z, eps)
    return relevance


def slow_conv_z_box(
    R: Tensor, x: Tensor, W: Tensor, eps: float, stride: int, padding: int
) -> Tensor:
    """One image: R [D, rows, columns], x [C, H, W], W [D, C, h, w]."""
    low, high = x.min().item(), x.max().item()
    pixels = {at: x[at].item() for at in indices(x)}
    relevance = dict.fromkeys(pixels, 0.0)
    for d, row, column in indices(R):
        parts = {}
        for c, i, j in indices(W[d]):
            at = (c, row * stride + i - padding, column * stride + j - padding)
            if at in pixels:  # the rest is padding
                w = W[d, c, i, j].item()
                parts[at] = pixels[at] * w - low * max(w, 0) - high * min(w, 0)
        z = sum(parts.values())
        for at, part in parts.items():
            relevance[at] += part * s(R[d, row, column].item(), z, eps)
    return torch.tensor(list(relevance.values()), dtype=x.dtype).view_as(x)


def slow_add_proportional(R: Tensor, a: Tensor, b: Tensor, eps: float, alpha: float = 1):
    R_a, R_b = torch.zeros_like(R), torch.zeros_like(R)
    for i in indices(R):
        total = (a[i] + alpha * b[i]).item()
        R_a[i] = a[i] * s(R[i].item(), total, eps)
        R_b[i] = alpha * b[i] * s(R[i].item(), total, eps)
    return R_a, R_b


def slow_add_keeping_shares(R: Tensor, a: Tensor, b: Tensor, eps: float, alpha: float = 1):
    """R_a |A| / (|A| + |B|) T / A with A, B, T the sums of R_a, R_b, R; R_b likewise."""
    R_a, R_b = slow_add_proportional(R, a, b, eps, alpha)
    A, B, T = (x.sum().item() for x in (R_a, R_b, R))
    share_a = s(abs(A), abs(A) + abs(B), eps) * T
    share_b = s(abs(B), abs(A) + abs(B), eps) * T
    return R_a * s(share_a, A, eps), R_b * s(share_b, B, eps)


def slow_matmul(R: Tensor, A: Tensor, B: Tensor, eps: float):
    """One pair of matrices: R [n, m], A [n, k], B [k, m]."""
    R_A, R_B = torch.zeros_like(A), torch.zeros_like(B)
    for i, j in indices(R):
        z = sum((A[i, k] * B[k, j]).item() for k in range(A.shape[1]))
        for k in range(A.shape[1]):
            part = A[i, k] * B[k, j] * s(R[i, j].item(), z, eps) / 2
            R_A[i, k] += part
            R_B[k, j] += part
    return R_A, R_B


# ------------------------------------------------------------------------------- each rule


@check(a=st.floats(-10, 10), b=st.sampled_from([0.0, -0.0, 1e-30, -1e-30, 2.0, -3.0]), eps=EPS)
def test_divide(a, b, eps):
    found = rules.divide(*torch.tensor([a, b], dtype=torch.float64), eps)
    torch.testing.assert_close(found.item(), s(a, b, eps), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "rule, slow",
    [
        (rules.linear_z_plus, slow_linear_z_plus),
        (rules.linear_signwise, slow_linear_signs_apart),
    ],
)
@pytest.mark.parametrize("tokens", [(), (3,), (2, 3)], ids=["2-D", "3-D", "4-D"])
@check(make=tensor_makers(), B=SIZE, inputs=SIZE, outputs=SIZE, biased=st.booleans(), eps=EPS)
def test_linear(rule, slow, tokens, make, B, inputs, outputs, biased, eps):
    x, W, R = make(B, *tokens, inputs), make(outputs, inputs), make(B, *tokens, outputs)
    bias = make(outputs) if biased else None
    expected = torch.stack(
        [slow(r, v, W, eps) for r, v in zip(R.flatten(0, -2), x.flatten(0, -2), strict=True)]
    )
    assert_equal(rule(R, F.linear(x, W, bias), x, W, bias, eps=eps), expected.view_as(x))


@pytest.mark.parametrize(
    "rule", [rules.linear_z_plus, rules.linear_z_plus_bf16, rules.linear_signwise]
)
def test_tokens_without_relevance_take_no_part(rule):
    """Whatever they hold; nor does one whose relevance starts with a 0 lose any."""
    R, x, W = torch.randn(2, 5, 3), torch.randn(2, 5, 4), torch.randn(3, 4)
    expected = rule(R, F.linear(x, W), x, W, eps=1e-9)
    R[0, 1:] = R[1] = 0
    expected[0, 1:] = expected[1] = 0
    x[0, 2] = torch.inf
    torch.testing.assert_close(rule(R, F.linear(x, W), x, W, eps=1e-9), expected)
    R[0, :, 0] = 0
    samples = zip(R[:, 0], x[:, 0], strict=True)
    expected = torch.stack([rule(r, F.linear(v, W), v, W, eps=1e-9) for r, v in samples])
    assert expected[0].any()
    torch.testing.assert_close(rule(R, F.linear(x, W), x, W, eps=1e-9)[:, 0], expected)
    together = torch.vmap(lambda R: rule(R, F.linear(x, W), x, W, eps=1e-9))(R[None])
    torch.testing.assert_close(together[0, :, 0], expected)


@check(make=tensor_makers(), B=SIZE, inputs=SIZE, outputs=SIZE, eps=EPS)
def test_linear_bf16(make, B, inputs, outputs, eps):
    """Each of its four roundings, of input, weight, quotient and product, is of 2^-9 at most."""
    x, W, R = make(B, inputs), make(outputs, inputs), make(B, outputs)
    found = rules.linear_z_plus_bf16(R, F.linear(x, W), x, W, eps=eps)
    for f, r, v in zip(found, R, x, strict=True):
        error = (f - slow_linear_z_plus(r, v, W, eps)).abs()
        assert (error <= 2**-6 * slow_linear_z_plus(r.abs(), v, W, eps) + 1e-12).all()


def slow_linear_z_box(R: Tensor, x: Tensor, W: Tensor, eps: float) -> Tensor:
    """One image: R [patches, out], x [patches, in], W [out, in]."""
    low, high = x.min().item(), x.max().item()
    relevance = torch.zeros_like(x)
    for p, d in indices(R):
        parts = [
            (x[p, i] * w - low * max(w, 0) - high * min(w, 0)).item()
            for i, w in enumerate(W[d].tolist())
        ]
        for i, part in enumerate(parts):
            relevance[p, i] += part * s(R[p, d].item(), sum(parts), eps)
    return relevance


@check(
    make=tensor_makers(),
    **dict.fromkeys(("B", "P", "inputs", "outputs"), SIZE),
    biased=st.booleans(),
    eps=EPS,
)
def test_linear_z_box(make, B, P, inputs, outputs, biased, eps):
    x, W, bias = make(B, P, inputs), make(outputs, inputs), make(outputs) if biased else None
    y = F.linear(x, W, bias)
    R = make(*y.shape)
    expected = [slow_linear_z_box(r, v, W, eps) for r, v in zip(R, x, strict=True)]
    found = rules.z_box(R, y, x, W, bias, eps=eps)
    assert_equal(found, stack(expected))
    assert torch.equal(rules.PAPER["patch_embedding"](R, y, x, W, bias, eps=eps), found)


@pytest.mark.parametrize(
    "kernel, stride, padding", [(2, 2, 0), (3, 2, 0), (1, 2, 0), (2, 1, 1)],
    ids=["patches", "overlapping", "with gaps", "padded"],
)  # fmt: skip
@check(make=tensor_makers(), B=SIZE, D=SIZE, biased=st.booleans(), eps=EPS)
def test_conv_z_box(kernel, stride, padding, make, B, D, biased, eps):
    x, W, bias = make(B, 2, 4, 5), make(D, 2, kernel, kernel), make(D) if biased else None
    y = F.conv2d(x, W, bias, stride, padding)
    R = make(*y.shape)
    samples = zip(R, x, strict=True)
    expected = [slow_conv_z_box(r, v, W, eps, stride, padding) for r, v in samples]
    found = rules.z_box(R, y, x, W, bias, stride=stride, padding=padding, eps=eps)
    assert_equal(found, stack(expected))
    assert_equal(rules.z_box(R, y, x, W, bias, stride, padding, eps=eps), found)


@pytest.mark.parametrize(
    "rule, slow",
    [
        (rules.add_epsilon, slow_add_proportional),
        (rules.add_conserving, slow_add_keeping_shares),
    ],
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 2, 2)])
@check(make=tensor_makers(), B=SIZE, alpha=st.sampled_from([1, -1, 0.5]), eps=EPS)
def test_add(rule, slow, shape, make, B, alpha, eps):
    a, b, R = (make(B, *shape) for _ in range(3))
    expected = [slow(*sample, eps, alpha) for sample in zip(R, a, b, strict=True)]
    assert_equal(rule(R, a + alpha * b, a, b, alpha=alpha, eps=eps), stack(expected))


@check(make=tensor_makers(), B=SIZE, H=SIZE, n=SIZE, k=SIZE, m=SIZE, eps=EPS)
def test_matmul(make, B, H, n, k, m, eps):
    A, B_, R = make(B, H, n, k), make(B, H, k, m), make(B, H, n, m)
    pairs = zip(*(x.flatten(0, 1) for x in (R, A, B_)), strict=True)
    R_A, R_B = stack([slow_matmul(*pair, eps) for pair in pairs])
    expected = (R_A.view_as(A), R_B.view_as(B_))
    assert_equal(rules.matmul_uniform(R, A @ B_, A, B_, eps=eps), expected)
    y = torch.einsum("bhnk,bhkm->bhnm", A, B_)
    einsum = rules.PAPER["einsum"]
    assert_equal(einsum(R, y, "bhnk,bhkm->bhnm", A, B_, eps=eps), expected)


@pytest.mark.parametrize("name, weight", [("mean", 1 / 3), ("sum", 1)])
@check(make=tensor_makers(), B=SIZE, D=SIZE, eps=EPS)
def test_mean_and_sum_over_tokens(name, weight, make, B, D, eps):
    x, R = make(B, 3, D), make(B, D)
    y = getattr(x, name)(1)
    expected = torch.zeros_like(x)
    for b, n, d in indices(x):
        expected[b, n, d] = x[b, n, d] * weight * s(R[b, d].item(), y[b, d].item(), eps)
    assert_equal(rules.PAPER[name](R, y, x, 1, eps=eps), expected)
    assert_equal(rules.PAPER[name](R, y, x, dim=1, eps=eps), expected)
    kept = rules.PAPER[name](R[:, None], y[:, None], x, dim=1, keepdim=True, eps=eps)
    assert_equal(kept, expected)


@check(make=tensor_makers(), B=SIZE, N=SIZE, D=SIZE, eps=EPS)
def test_product_of_two_streams(make, B, N, D, eps):
    a, b, R = (make(B, N, D) for _ in range(3))
    expected = torch.zeros_like(a)
    for i in indices(a):
        expected[i] = a[i] * b[i] * s(R[i].item(), (a[i] * b[i]).item(), eps) / 2
    assert_equal(rules.PAPER["mul"](R, a * b, a, b, eps=eps), (expected, expected))


# ------------------------------------------------------------------ what the rules promise

EINSUM = "bnk,bkm->bnm"
CASES = {  # of each rule: the operation, and the shapes of its inputs
    "linear": (F.linear, [(3, 4, 5), (6, 5), (6,)]),
    "patch_embedding": (lambda *a: F.conv2d(*a, stride=2), [(3, 2, 4, 4), (5, 2, 2, 2), (5,)]),
    "conv": (lambda *a: F.conv2d(*a, stride=2), [(3, 2, 4, 4), (5, 2, 2, 2), (5,)]),
    "batch_norm": (lambda x, a: x * a[:, None], [(3, 4, 5), (4,)]),
    "add": (torch.add, [(3, 4, 5), (3, 4, 5)]),
    "matmul": (torch.matmul, [(3, 2, 4, 5), (3, 2, 5, 4)]),
    "einsum": (lambda *a: torch.einsum(EINSUM, *a), [(3, 4, 5), (3, 5, 4)]),
    "mul": (torch.mul, [(3, 4, 5), (3, 4, 5)]),
    "mean": (lambda a: a.mean(1), [(3, 4, 5)]),
    "sum": (lambda a: a.sum(1), [(3, 4, 5)]),
}
STREAMS = {
    "linear": 1,
    "patch_embedding": 1,
    "conv": 1,
    "batch_norm": 1,
}  # the other inputs are weights
EXTRA = {
    "patch_embedding": {"stride": 2},
    "conv": {"stride": 2},
    "mean": {"dim": 1},
    "sum": {"dim": 1},
}


def apply(rule_set, name: str, R: Tensor, y: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    first = (EINSUM,) if name == "einsum" else ()
    found = rule_set[name](R, y, *first, *inputs, eps=0.0, **EXTRA.get(name, {}))
    return found if isinstance(found, tuple) else (found,)


def draw(name: str, seed: int):
    torch.manual_seed(seed)
    function, shapes = CASES[name]
    inputs = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    y = function(*inputs)
    return torch.randn_like(y), y, inputs


def test_every_rule_is_tested_here():
    assert set(rules.PAPER) == set(rules.LRP) == set(CASES)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rule_set", ["paper", "lrp", "epsilon"])
def test_samples_are_independent(rule_set, name, seed):
    R, y, inputs = draw(name, seed)
    together = apply(rules.RULE_SETS[rule_set], name, R, y, inputs)
    streams = STREAMS.get(name, len(inputs))
    for b in range(len(y)):
        alone = [x[b : b + 1] for x in inputs[:streams]] + inputs[streams:]
        found = apply(rules.RULE_SETS[rule_set], name, R[b : b + 1], y[b : b + 1], alone)
        assert_equal(found, tuple(r[b : b + 1] for r in together))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "rule_set, name",
    [
        (r, n)
        for r in ("paper", "lrp")
        for n in CASES
        if n != "conv" and (r, n) != ("lrp", "linear")
    ],
)
def test_relevance_is_conserved(rule_set, name, seed):
    """Per sample, what comes out is what went in. The baseline's linear rule does not promise it,
    nor does any rule where nothing can take the relevance: the next tests."""
    R, y, inputs = draw(name, seed)
    if name == "linear":  # at least one positive product an output
        inputs = [torch.cat([x, torch.ones_like(x[..., :1])], -1) for x in inputs[:2]] + inputs[2:]
        y = F.linear(*inputs)
    found = apply(rules.RULE_SETS[rule_set], name, R, y, inputs)
    assert_equal(sum(r.flatten(1).sum(1) for r in found), R.flatten(1).sum(1))


@pytest.mark.parametrize("rule_set", ["paper", "lrp", "epsilon"])
def test_a_convolution_is_a_linear_layer_on_what_it_sees(rule_set):
    R, y, (x, weight, bias) = draw("conv", 0)
    chosen = rules.RULE_SETS[rule_set]
    (found,) = apply(chosen, "conv", R, y, [x, weight, bias])
    seen = F.unfold(x, 2, stride=2).mT  # [B, places, C * 2 * 2]
    of_places = (t.flatten(2).mT for t in (R, y))
    linear = chosen["linear"](*of_places, seen, weight.flatten(1), bias, eps=0.0)
    assert_equal(found, F.fold(linear.mT, x.shape[2:], 2, stride=2))


def test_of_a_batch_norm_relevance_is_shared_with_its_bias():
    x, a = torch.randn(2, 3, 4).double(), torch.tensor([2.0, -1.0, 0.5]).double()
    y, R = x * a[:, None] + 0.3, torch.randn(2, 3, 4).double()
    found = rules.PAPER["batch_norm"](R, y, x, a, eps=0.0)
    assert_equal(found, R * (y - 0.3) / y)


def test_no_relevance_where_all_products_are_negative():
    """The relevance of such an output is lost, that of the others is not."""
    x = torch.tensor([[1.0, 2.0]]).double()
    W = torch.tensor([[-1.0, -3.0], [1.0, -3.0], [-1.0, 3.0]]).double()
    found = rules.linear_z_plus(torch.tensor([[5.0, 7.0, 11.0]]), x @ W.mT, x, W, eps=0.0)
    assert found.tolist() == [[7.0, 11.0]]


@pytest.mark.parametrize("kept", [1.0, 0.1], ids=["dense", "sparse"])
@pytest.mark.parametrize("bias", [0.0, 1.0, 1e3, -1e3, 1e5])
@pytest.mark.parametrize("eps", [0.0, 1e-9])
def test_rounding_is_not_taken_for_a_positive_product(eps, bias, kept):
    """In float32 Z is the rounding error of output - bias where every product is negative.

    Divided by that, relevance would explode. Inputs as after a ReLU: no negative ones, many 0.
    """
    torch.manual_seed(0)
    x = torch.rand(8, 50, 768) * (torch.rand(8, 50, 768) < kept)
    W, bias = torch.randn(32, 768), torch.full((32,), bias)
    W[:16] = -W[:16].abs()
    y = F.linear(x, W, bias)
    R = torch.randn_like(y)
    found = rules.linear_z_plus(R, y, x, W, bias, eps=eps)
    R[..., :16] = 0  # holds nothing of it anyway
    assert torch.equal(found, rules.linear_z_plus(R, y, x, W, bias, eps=eps))


@pytest.mark.parametrize("bias", [0.0, 1.0, 100.0])
def test_float32_is_close_to_float64(bias):
    """Also where outputs without any positive product stand beside ordinary ones."""
    torch.manual_seed(0)
    x, W, bias = torch.rand(2, 10, 64), torch.randn(32, 64), torch.full((32,), bias)
    W[::4] = -W[::4].abs()
    y = F.linear(x, W, bias)
    R = torch.randn_like(y)
    found = rules.linear_z_plus(R, y, x, W, bias, eps=0.0)
    exact = [v.double() for v in (x, W, bias)]
    expected = rules.linear_z_plus(R.double(), F.linear(*exact), *exact, eps=0.0)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("rule", [rules.add_epsilon, rules.add_conserving])
def test_streams_that_cancel_hold_no_relevance(rule):
    a = torch.randn(2, 3, 4, dtype=torch.float64)
    for found in rule(torch.ones_like(a), a - a, a, -a, eps=0.0):
        assert found.eq(0).all()


def test_relevance_where_streams_cancel_goes_to_where_they_do_not():
    a, b = torch.tensor([[1.0, 3.0]]).double(), torch.tensor([[-1.0, 1.0]]).double()
    R = torch.tensor([[2.0, 4.0]]).double()
    R_a, R_b = rules.add_conserving(R, a + b, a, b, eps=0.0)
    assert R_a.tolist() == [[0.0, 4.5]] and R_b.tolist() == [[0.0, 1.5]]


def test_stream_whose_relevance_sums_to_0():
    """It gets none: its share is 0. The other gets all."""
    a, b = torch.tensor([[1.0, -1.0]]).double(), torch.tensor([[1.0, 3.0]]).double()
    R = torch.tensor([[2.0, 2.0]]).double()  # R_a = [1, -1], R_b = [1, 3]
    R_a, R_b = rules.add_conserving(R, a + b, a, b, eps=0.0)
    assert R_a.tolist() == [[0.0, 0.0]] and R_b.tolist() == [[1.0, 3.0]]


def test_relevance_of_total_0():
    a, b = torch.tensor([[1.0, 3.0]]).double(), torch.tensor([[2.0, 1.0]]).double()
    R = torch.tensor([[1.0, -1.0]]).double()
    for found in rules.add_conserving(R, a + b, a, b, eps=0.0):
        assert found.isfinite().all() and found.sum() == 0


def test_rule_set_by_name():
    assert rules.rule_set("paper") is rules.PAPER and rules.rule_set("lrp") is rules.LRP
    own = {"linear": rules.linear_z_plus}
    assert rules.rule_set(own) is own
    with pytest.raises(ValueError, match="rules is 'papper'; accepted: paper, lrp"):
        rules.rule_set("papper")
