"""What a recording sees: its gradients are autograd's, however a model spells its operations."""

import gc
import math
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.autograd.function import BackwardCFunction
from torch.utils.checkpoint import checkpoint

import relprop
from relprop import UnsupportedModel, operations, rules
from relprop.operations import PIXELS, set_role
from relprop.recorder import Recorder

B, N, D, H, C = 3, 10, 12, 2, 4  # batch, tokens, channels, heads, classes


def eager(q: Tensor, k: Tensor, v: Tensor, mask=None) -> tuple[Tensor, Tensor]:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    attention = (scores if mask is None else scores + mask).softmax(dim=-1)
    return attention @ v, attention


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.fc1, self.fc2 = nn.Linear(D, 2 * D), nn.Linear(2 * D, D)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.qkv(x).reshape(*x.shape[:2], 3, H, D // H).permute(2, 0, 3, 1, 4).unbind()


class Plain(nn.Module):
    """A transformer written out by hand, whose every operation can be spelled differently.

    ``maps`` holds the attention of its last forward pass.
    """

    def __init__(self, text: bool = False, **spellings) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(20, D) if text else nn.Conv2d(3, D, 4, 4)
        self.prefix = nn.Parameter(torch.randn(1, 0 if text else 1, D))
        self.position = nn.Parameter(torch.randn(1, N, D))
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, C)
        self.spelled = spellings
        self.double().eval()
        for parameter in self.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)

    def spell(self, name: str, usual):
        return self.spelled.get(name, usual)

    def tokens(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        if x.ndim == 4:
            x = x.flatten(2).transpose(1, 2)
        return torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1) + self.position

    def forward(self, x: Tensor, mask: Tensor | None = None, attention_mask=None) -> Tensor:
        self.maps = []
        if attention_mask is not None:  # [B, N], 1 takes part, as Hugging Face has it
            mask = additive(attention_mask[:, None, None].bool())
        x = self.spell("tokens", Plain.tokens)(self, x)
        add, attend = self.spell("add", torch.add), self.spell("attend", eager)
        activate, between = self.spell("activate", F.relu), self.spell("between", lambda x: x)
        for block in self.blocks:
            y, attention = attend(*block.heads(block.norm1(x)), *(() if mask is None else (mask,)))
            self.maps.append(attention)
            x = add(x, block.out(y.transpose(1, 2).flatten(2)))
            x = add(x, block.fc2(activate(block.fc1(block.norm2(x)))))
            x = between(x)
        return self.head(self.spell("read", lambda x: x[:, 0])(self.norm(x)))


def pixels(batch: int = B) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, 12, 12, dtype=torch.float64, generator=generator)


def ids() -> Tensor:
    return torch.randint(0, 20, (B, N), generator=torch.Generator().manual_seed(1))


def everything(model: nn.Module, inputs) -> dict[str, Tensor]:
    """All that a recording yields, for the classes 0, 1, 2."""
    trace, target = relprop.record(model, inputs), torch.arange(B) % C
    found = {"logits": trace.logits, "gradient": torch.stack(trace.gradient(target))}
    found["attention"] = torch.stack(trace.attention)
    for name in rules.RULE_SETS:
        found[f"relevance, {name}"] = torch.stack(trace.relevance(target, rules=name, eps=0.0))
        found[f"source, {name}"] = trace.source_relevance(target, rules=name, eps=0.0)
        found[f"readout, {name}"] = trace.readout(target, rules=name, eps=0.0)
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, e in expected.items():
        assert e.std() > 0
        f = found[name]
        assert (f - e).abs().max() <= 1e-9 * e.abs().max(), name


def autograd_gradients(model: Plain, *inputs) -> tuple[Tensor, ...]:
    y = model(*inputs)
    return torch.autograd.grad(y[torch.arange(len(y)), torch.arange(len(y)) % C].sum(), model.maps)


# --------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("text", [False, True], ids=["pixels", "ids"])
def test_gradient_is_autograds(text):
    model, x = Plain(text), ids() if text else pixels()
    expected = autograd_gradients(model, x)
    trace = relprop.record(model, x)
    found = trace.gradient(torch.arange(B) % C)
    for f, e, attention, a in zip(found, expected, trace.attention, model.maps, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(attention, a, rtol=1e-10, atol=1e-12)
    assert all(f.abs().max() > 1e-6 for f in found)


WEIGHT, BIAS = torch.randn(4, 5).double(), torch.randn(4).double()
OPERATIONS = {
    "linear": (lambda x: F.linear(x, WEIGHT, BIAS), [(2, 3, 5)]),
    "x @ W + b": (lambda x: x @ WEIGHT.mT + BIAS, [(2, 3, 5)]),
    "conv2d": (lambda x: F.conv2d(x, WEIGHT.reshape(5, 1, 2, 2), stride=2), [(2, 1, 4, 4)]),
    "a + b": (lambda a, b: a + b, [(2, 3, 4), (2, 1, 4)]),
    "a - 2 b": (lambda a, b: torch.sub(a, b, alpha=2), [(2, 3, 4), (2, 3, 4)]),
    "1 - x": (lambda x: 1 - x, [(2, 3)]),
    "a * b": (lambda a, b: a * b, [(2, 3, 4), (2, 3, 1)]),
    "x * x": (lambda x: x * x, [(2, 3)]),
    "x / 3": (lambda x: x / 3, [(2, 3)]),
    "a @ b": (lambda a, b: a @ b, [(2, 3, 4), (2, 4, 3)]),
    "bmm": (torch.bmm, [(2, 3, 4), (2, 4, 3)]),
    "einsum": (lambda a, b: torch.einsum("bij,bkj->bik", a, b), [(2, 3, 4), (2, 5, 4)]),
    "einsum of a list": (lambda *x: torch.einsum("bij,bkj->bik", x), [(2, 3, 4), (2, 5, 4)]),
    "mean": (lambda x: x.mean(1), [(2, 3, 4)]),
    "sum": (lambda x: x.sum(dim=1, keepdim=True), [(2, 3, 4)]),
    "softmax": (lambda x: F.softmax(x, -1), [(2, 3, 4)]),
    "layer_norm": (lambda x: F.layer_norm(x, (5,), WEIGHT[0]), [(2, 3, 5)]),
    "gelu": (F.gelu, [(2, 3)]),
    "x sigmoid(x)": (lambda x: x * x.sigmoid(), [(2, 3)]),
    "x += y": (lambda x, y: (x * 2).add_(y), [(2, 3), (2, 3)]),
    "attention": (F.scaled_dot_product_attention, [(2, 1, 3, 4)] * 3),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradcheck(name):
    function, shapes = OPERATIONS[name]

    def recorded(*inputs):
        with Recorder(2):
            return function(*(set_role(x, PIXELS) for x in inputs))

    torch.manual_seed(0)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert gradcheck(recorded, inputs)


def walk_back(function, relevance: Tensor, *inputs: Tensor, rule_set="paper", eps=0.0):
    """The relevance of the inputs of a function."""
    inputs = [set_role(x.clone().requires_grad_(), PIXELS) for x in inputs]
    with Recorder(len(relevance)) as recorder:
        y = function(*inputs)
    backward = recorder.recording.backward
    backward.rules, backward.eps = rules.RULE_SETS[rule_set], eps
    return torch.autograd.grad(y, inputs, relevance)


CONSTANT = torch.randn(1, 3, 4).double()
UNCHANGED = {
    "x + 3": lambda x: x + 3,
    "3 - x": lambda x: 3 - x,
    "-x": lambda x: -x,
    "x / 3": lambda x: x / 3,
    "3 * x": lambda x: 3 * x,
    "bias": lambda x: x + CONSTANT[0, 0],
    "layer scale": lambda x: CONSTANT[0, 0] * x,
    "softmax": lambda x: x.softmax(-1),
    "layer norm": lambda x: F.layer_norm(x, (4,)),
    "GELU": F.gelu,
}
RULED = {  # spellings of ruled operations, and the rule
    "a + b": (lambda a, b: a + b, rules.add_keeping_shares, {}),
    "a - b": (lambda a, b: a - b, rules.add_keeping_shares, {"alpha": -1}),
    "a - 2 b": (lambda a, b: a.sub(b, alpha=2), rules.add_keeping_shares, {"alpha": -2}),
    "a + 2 b": (lambda a, b: torch.add(a, b, alpha=2), rules.add_keeping_shares, {"alpha": 2}),
    "a += b": (lambda a, b: (a * 1).add_(b), rules.add_keeping_shares, {}),
    "a * b": (lambda a, b: a * b, rules.PAPER["mul"], {}),
    "a @ b": (lambda a, b: a @ b.mT, lambda *x, eps: transposed(*x, eps=eps), {}),
    "einsum": (lambda *x: torch.einsum("bij,bkj->bik", *x), lambda *x, eps: transposed(*x), {}),
    "einsum of a list": (
        lambda *x: torch.einsum("bij,bkj->bik", x), lambda *x, eps: transposed(*x), {}
    ),
}  # fmt: skip


def transposed(relevance, output, a, b, eps=0.0):
    R_a, R_b = rules.matmul_halves(relevance, output, a, b.mT, eps=eps)
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
        expected, _ = rules.add_keeping_shares(R, x + CONSTANT, x, CONSTANT, eps=0.0)
        torch.testing.assert_close(walk_back(function, R, x), (expected,))


def test_relevance_of_a_text_ends_where_its_embeddings_are_complete():
    """Not at the words alone: positions, added in one go or in two, are part of them."""

    def in_two(self, x):
        return self.embed(x) + self.position / 4 + 3 * self.position / 4

    assert_same(everything(Plain(text=True, tokens=in_two), ids()), everything(Plain(True), ids()))


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
}


@pytest.mark.parametrize("eps", [0.0, 1e-9])
@pytest.mark.parametrize("rule_set", rules.RULE_SETS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_written_by_hand_passes_relevance_unchanged(name, rule_set, eps):
    """With relevance of both signs, as it arrives in a model."""
    torch.manual_seed(0)
    x, R = torch.randn(2, 5, 8).double(), torch.randn(2, 5, 8).double()
    found = walk_back(ACTIVATIONS[name], R, x, rule_set=rule_set, eps=eps)
    torch.testing.assert_close(found, (R,), rtol=1e-12, atol=0)


def test_gate_of_another_stream_takes_half():
    x, R = torch.randn(2, 5, 8).double(), torch.randn(2, 5, 4).double()
    (found,) = walk_back(lambda x: x[..., :4] * x[..., 4:].sigmoid(), R, x)
    torch.testing.assert_close(found, torch.cat([R, R], -1) / 2)


# --------------------------------------------------------------- one model, many spellings


def scaled_query(q, k, v):
    attention = torch.softmax(torch.matmul(q * (D // H) ** -0.5, k.mT), -1)
    return torch.matmul(attention, v), attention


def by_einsum(q, k, v):
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) * (D // H) ** -0.5
    attention = F.softmax(scores, dim=3)
    return torch.einsum("bhnm,bhmd->bhnd", attention, v), attention


def by_bmm(q, k, v):
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    attention = F.dropout((torch.bmm(q, k.mT) / math.sqrt(D // H)).softmax(-1), training=False)
    return torch.bmm(attention, v).unflatten(0, (-1, H)), attention


def heads_first_bmm(q, k, v):
    """[H * B, N, N]: the batch is not the slow dimension."""
    q, k, v = (x.transpose(0, 1).flatten(0, 1) for x in (q, k, v))
    attention = (torch.bmm(q, k.mT) / math.sqrt(D // H)).softmax(-1)
    return torch.bmm(attention, v).unflatten(0, (H, -1)).transpose(0, 1), attention


def fused(q, k, v, mask=None, **options):
    return F.scaled_dot_product_attention(q, k, v, mask, **options), None


def fused_without_scale(q, k, v):
    return fused(q * (D // H) ** -0.5, k, v, scale=1.0)


@pytest.mark.parametrize("attend", [scaled_query, by_einsum, by_bmm, fused, fused_without_scale])
def test_spellings_of_attention(attend):
    assert_same(everything(Plain(attend=attend), pixels()), everything(Plain(), pixels()))


def in_place_operator(x, y):
    x += y
    return x


def in_place_unbound(x, y):
    x.add_(y)
    return x


def in_place_twice(x, y):
    also_x = x.add_(y, alpha=0.5)
    x.add_(y, alpha=0.5)
    return also_x


def into_a_buffer(x, y):
    buffer = torch.zeros_like(x.detach())
    buffer[...] = x
    return buffer + y


@pytest.mark.parametrize("add", [in_place_operator, in_place_unbound, into_a_buffer])
def test_additions_in_place(add):
    assert_same(everything(Plain(add=add), pixels()), everything(Plain(), pixels()))


def test_addition_in_place_to_a_tensor_of_two_names():
    def twice(x, y):
        return torch.add(torch.add(x, y, alpha=0.5), y, alpha=0.5)

    assert_same(
        everything(Plain(add=in_place_twice), pixels()), everything(Plain(add=twice), pixels())
    )


def test_rows_written_in_place():
    def written(x):
        x = x.clone()
        x[:, :4] = x[:, :4].relu()
        x[:, 4:] = x[:, 3:-1]
        return x

    def usual(x):
        x = torch.cat([x[:, :4].relu(), x[:, 4:]], 1)
        return torch.cat([x[:, :4], x[:, 3:-1]], 1)

    found = everything(Plain(between=written), pixels())
    assert_same(found, everything(Plain(between=usual), pixels()))


def masked_in_place(q, k, v, mask):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    scores.masked_fill_(mask, -math.inf)
    attention = scores.softmax(-1)
    return attention @ v, attention


@pytest.mark.parametrize(
    "in_place, usual",
    [
        (lambda x: F.relu(x, inplace=True), F.relu),
        (nn.ReLU(inplace=True), F.relu),
        (torch.relu_, F.relu),
        (lambda x: x.mul_(0.5).tanh_(), lambda x: torch.tanh(x * 0.5)),
        (lambda x: F.relu(x.unsqueeze_(1).squeeze_(1)), F.relu),
        (lambda x: nn.Dropout(0.5, inplace=True).eval()(F.relu(x)), F.relu),
        (lambda x: F.dropout(F.relu(x), 0.5, False, inplace=True), F.relu),
    ],
)
def test_activations_in_place(in_place, usual):
    found = everything(Plain(activate=in_place), pixels())
    assert_same(found, everything(Plain(activate=usual), pixels()))


def test_value_written_in_place_is_seen_under_no_grad():
    def threshold(x):
        x.sub_(0.5)
        with torch.no_grad():
            positive = x > 0
        return x * positive

    usual = everything(Plain(activate=lambda x: (x - 0.5) * (x > 0.5)), pixels())
    assert_same(everything(Plain(activate=threshold), pixels()), usual)


@pytest.mark.parametrize(
    "alias",
    [
        lambda x: (x.view(-1), x.add_(1))[0].view_as(x),
        lambda x: (x[:, :4], x.mul_(2))[0].repeat(1, 2, 1)[:, : x.shape[1]] + x,
        lambda x: (x[:, :4].add_(1), x)[1],
    ],
    ids=["view", "slice", "slice written to"],
)
def test_alias_of_what_is_written_in_place_is_refused(alias):
    with pytest.raises(UnsupportedModel, match="another view of its memory"):
        relprop.record(Plain(between=alias), pixels())


# ----------------------------------------------------------------------------------- masks

PADDED = torch.tensor([0, 3, 6])
KEPT = (torch.arange(N) < (N - PADDED)[:, None])[:, None, None]  # [B, 1, 1, N], True takes part


def additive(kept: Tensor, value: float = -math.inf) -> Tensor:
    return torch.zeros(kept.shape, dtype=torch.float64).masked_fill(~kept, value)


@pytest.mark.parametrize(
    "attend, mask",
    [
        (eager, additive(KEPT, torch.finfo(torch.float64).min)),
        (fused, KEPT),
        (fused, KEPT.expand(B, H, N, N)),
        (fused, additive(KEPT)),
        (masked_in_place, ~KEPT),
    ],
    ids=["eager, lowest", "fused, boolean", "fused, expanded", "fused, -inf", "masked_fill_"],
)
@pytest.mark.parametrize("text", [False, True], ids=["pixels", "ids"])
def test_masks(attend, mask, text):
    x = ids() if text else pixels()
    inputs = {"x": x, "mask": mask}
    usual = {"x": x, "mask": additive(KEPT)}
    expected = everything(Plain(text), usual)
    assert_same(everything(Plain(text, attend=attend), inputs), expected)
    out = ~KEPT.expand(B, H, N, N)
    assert all(maps[:, out].abs().max() == 0 for n, maps in expected.items() if "relev" in n)


@pytest.mark.parametrize("method", relprop.METHODS)
def test_padding_changes_nothing(method):
    model, x = Plain(text=True), ids()
    model.position.data[:] = model.position[:, :1]  # a shorter text has the same ones
    padded = relprop.record(model, {"x": x, "attention_mask": KEPT[:, 0, 0].long()})
    largest = 0
    for i, length in enumerate(N - PADDED):
        shorter = Plain(text=True)
        shorter.load_state_dict(model.state_dict())
        shorter.position = nn.Parameter(model.position[:, :length])
        alone = relprop.record(shorter, x[i : i + 1, :length])
        for target in range(C):
            found = relprop.explain_trace(padded, target, method).relevance[i]
            expected = relprop.explain_trace(alone, target, method).relevance[0]
            torch.testing.assert_close(found[:length], expected, rtol=1e-9, atol=1e-12)
            assert found[length:].eq(0).all()
            largest = max(largest, found.abs().max())
    assert largest > 0


def test_causal():
    """The head reads the last token, which sees all."""
    triangle = additive(torch.ones(N, N, dtype=torch.bool).tril())
    attends = (lambda *x: fused(*x, is_causal=True), lambda *x: eager(*x, triangle))
    found, expected = (
        everything(Plain(attend=attend, read=lambda x: x[:, -1]), pixels()) for attend in attends
    )
    assert_same(found, expected)


# ---------------------------------------------------------------------- torch's own modules


class Encoder(nn.Module):
    """torch's encoder, or the same weights used by hand."""

    def __init__(self, by_hand: bool, norm_first: bool, text: bool = False) -> None:
        super().__init__()
        plain = Plain(text)
        self.tokens, self.head = plain.tokens, plain.head
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(
            D, H, 2 * D, dropout=0.1, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)
        self.by_hand, self.norm_first = by_hand, norm_first
        self.double().eval()
        for parameter in self.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)

    def attend(self, layer, x: Tensor, mask) -> Tensor:
        own = layer.self_attn
        q, k, v = F.linear(x, own.in_proj_weight, own.in_proj_bias).chunk(3, -1)
        heads = (y.unflatten(-1, (H, -1)).transpose(1, 2) for y in (q, k, v))
        return own.out_proj(eager(*heads, mask)[0].transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, padding_mask=None, attention_mask=None) -> Tensor:
        x = self.tokens(x)
        if not self.by_hand:
            x = self.encoder(x, attention_mask, padding_mask)
            return self.head(x[:, 0])
        mask = 0 if padding_mask is None else additive(~padding_mask[:, None, None])
        mask = mask if attention_mask is None else mask + attention_mask
        for layer in self.encoder.layers:

            def mlp(x, layer=layer):
                return layer.linear2(F.relu(layer.linear1(x)))

            if self.norm_first:
                x = x + self.attend(layer, layer.norm1(x), mask)
                x = x + mlp(layer.norm2(x))
            else:
                x = layer.norm1(x + self.attend(layer, x, mask))
                x = layer.norm2(x + mlp(x))
        return self.head(x[:, 0])


TRIANGLE = additive(torch.ones(N, N, dtype=torch.bool).tril())
TRIANGLE[0] = 0  # what the head reads sees all


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"padding_mask": ~KEPT[:, 0, 0]},
        {"attention_mask": TRIANGLE},
        {"attention_mask": TRIANGLE, "padding_mask": ~KEPT[:, 0, 0]},
    ],
    ids=lambda masks: " and ".join(masks) or "no mask",
)
def test_multi_head_attention(norm_first, masks):
    inputs = {"x": pixels()} | masks
    found = everything(Encoder(False, norm_first), inputs)
    assert_same(found, everything(Encoder(True, norm_first), inputs))


# --------------------------------------------------------------- what a model may be wrapped in


def test_gradient_checkpointing(tiny_vit, images):
    model = tiny_vit()
    expected = everything(model, images)
    model.set_grad_checkpointing(True)
    assert_same(everything(model, images), expected)
    assert model.grad_checkpointing


def test_frozen_parameters(tiny_vit, images):
    model = tiny_vit()
    expected = everything(model, images)
    assert_same(everything(model.requires_grad_(False), images), expected)


def test_compiled_model():
    runs = []

    def backend(graph, _):
        def run(*args):
            runs.append(graph)
            return graph(*args)

        return run

    model, x = Plain(), pixels()
    expected = everything(model, x)
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        compiled(x)
        assert runs
        runs.clear()
        assert_same(everything(compiled, x), expected)
        assert not runs
        compiled(x)
        assert runs  # compiled as before


def test_constant_that_requires_grad():
    """A tensor that is no parameter, but trained like one: as a parameter, a constant."""
    shift = torch.randn(1, N, D, dtype=torch.float64)
    found, expected = (
        everything(Plain(between=lambda x, s=s: x + s), pixels())
        for s in (shift.clone().requires_grad_(), nn.Parameter(shift))
    )
    assert_same(found, expected)


CONTEXTS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("method", relprop.METHODS)
@pytest.mark.parametrize("context", CONTEXTS)
def test_contexts(context, method, tiny_vit, images):
    model, images = tiny_vit().float(), images.float()
    expected = relprop.explain(model, images, method=method)
    with CONTEXTS[context]():
        found = relprop.explain(model, images.clone(), method=method)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.relevance, expected.relevance)


# -------------------------------------------------------------- several recordings at a time


def test_threads(tiny_vit, images):
    models = [tiny_vit(), tiny_vit(init_values=0.1), Plain()]
    inputs = [images, images, pixels()]
    expected = [everything(m, x) for m, x in zip(models, inputs, strict=True)]
    jobs = [0, 1, 2, 0]  # one model in two threads
    found, start = [None] * len(jobs), threading.Barrier(len(jobs))

    def work(job: int) -> None:
        start.wait()
        for _ in range(3):
            found[job] = everything(models[jobs[job]], inputs[jobs[job]])

    threads = [threading.Thread(target=work, args=(job,)) for job in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job, f in zip(jobs, found, strict=True):
        assert_same(f, expected[job])


def test_threads_that_ask_one_recording(tiny_vit, images):
    trace = relprop.record(tiny_vit(), images)
    methods = ["transformer_attribution", "lrp", "partial_lrp", "generic_attention"]
    expected = [relprop.explain_trace(trace, 1, method).relevance for method in methods]
    found, start = [[] for _ in methods], threading.Barrier(len(methods))

    def work(job: int) -> None:
        start.wait()
        for _ in range(10):
            found[job].append(relprop.explain_trace(trace, 1, methods[job]).relevance)

    threads = [threading.Thread(target=work, args=(job,)) for job in range(len(methods))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for of_method, e in zip(found, expected, strict=True):
        assert len(of_method) == 10 and all(torch.equal(f, e) for f in of_method)


@pytest.mark.parametrize("method", relprop.METHODS)
def test_model_that_explains_another(method, tiny_vit, images):
    """The inner recording is no part of the outer one, whatever the method, and the other way."""
    inner, outer = tiny_vit(init_values=0.1), tiny_vit()

    class Masking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = inner, outer

        def forward(self, x: Tensor) -> Tensor:
            self.explanation = relprop.explain(inner, x, 2, method)
            heat = self.explanation.heatmap(32)[:, None].detach()
            return outer(x * (1 + heat))

    model, expected = Masking(), relprop.explain(inner, images, 2, method)
    found = everything(model, images)
    assert torch.equal(model.explanation.relevance, expected.relevance)
    assert_same(found, everything(outer, images * (1 + expected.heatmap(32)[:, None])))


# ----------------------------------------------------------------- the model is left as it was


class Interrupted(Exception):
    pass


def state(model: nn.Module) -> list:
    """All that a recording could have changed."""
    parameters = list(model.parameters())
    return [
        [m.training for m in model.modules()],
        [vars(m).get("grad_checkpointing") for m in model.modules()],
        [id(p) for p in parameters],
        [p.requires_grad for p in parameters],
        [(id(p.grad), None if p.grad is None else p.grad.sum().item()) for p in parameters],
        [p.sum().item() for p in parameters],
        [id(b) for b in model.buffers()],
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.overrides._get_current_function_mode_stack(),
        Recorder._active.stack[:],
    ]


@pytest.mark.parametrize("fails", [False, True], ids=["success", "exception"])
def test_model_in_training_is_left_as_it_was(fails, tiny_vit, images):
    rates = {f"{kind}drop_rate": 0.5 for kind in ("", "pos_", "proj_", "attn_")}
    model = tiny_vit(**rates, drop_path_rate=0.5)
    expected = everything(model, images)
    model.train()
    model.blocks[1].eval()
    model.set_grad_checkpointing(True)
    model.patch_embed.requires_grad_(False)
    model(images).sum().backward()
    model.zero_grad(set_to_none=False)
    model.head.weight.grad += 1
    model.norm.weight.grad = None
    images.requires_grad_()
    before = state(model)
    if fails:

        def interrupt(*_):
            raise Interrupted

        hook = model.blocks[2].attn.register_forward_hook(interrupt)
        with pytest.raises(Interrupted):
            relprop.explain(model, images)
        hook.remove()
    else:
        assert_same(everything(model, images), expected)
    assert state(model) == before
    assert images.grad is None and images.requires_grad and not hasattr(images, "_relprop_role")
    assert_same(everything(model, images), expected)


def test_interrupted_while_walking_back(tiny_vit, images):
    """The recording is as good as before."""
    trace, target = relprop.record(tiny_vit(), images), torch.tensor([0, 1, 2])
    expected = trace.relevance(target)

    def interrupt(*_, **__):
        raise Interrupted

    with pytest.raises(Interrupted):
        trace.relevance(target, rules=rules.PAPER | {"matmul": interrupt})
    for found, e in zip(trace.relevance(target), expected, strict=True):
        assert torch.equal(found, e)


def recorded_nodes() -> int:
    return sum(isinstance(x, BackwardCFunction) for x in gc.get_objects())


@pytest.fixture
def no_collector():
    gc.collect()
    gc.freeze()
    gc.disable()
    assert recorded_nodes() == 0
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()
    gc.unfreeze()


def test_the_graph_is_freed_without_the_garbage_collector(tiny_vit, images, no_collector):
    """Once an explanation is there, and not because the collector found a cycle."""
    model = tiny_vit()
    for method in relprop.METHODS:
        trace = relprop.record(model, images)
        assert recorded_nodes() > 40
        explanation = relprop.explain_trace(trace, method=method)
        del trace
        assert recorded_nodes() == 0
        assert not explanation.relevance.requires_grad and not explanation.logits.requires_grad
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    assert not [x for x in gc.garbage if isinstance(x, (Tensor, relprop.Trace, Recorder))]


def test_the_graph_is_freed_after_in_place_operations(no_collector):
    model = Plain(add=in_place_twice, activate=nn.ReLU(inplace=True))
    trace = relprop.record(model, pixels())
    model.maps.clear()
    assert recorded_nodes() > 40
    del trace
    assert recorded_nodes() == 0


# --------------------------------------------------------- what the engine does not know


@pytest.fixture
def registries():
    """Leaves the vocabulary and the rule sets as they were."""
    before = [(r, dict(r)) for r in (operations.OPERATIONS, *rules.RULE_SETS.values())]
    yield
    for registry, content in before:
        registry.clear()
        registry.update(content)


def test_unknown_operation_until_it_is_registered(registries):
    model = Plain(activate=torch.sin)
    with pytest.raises(
        UnsupportedModel, match=r"no relevance rule for torch\.sin .*relprop\.register\(torch\.sin,"
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


@pytest.mark.parametrize("rule_set", rules.RULE_SETS)
def test_registered_with_a_rule(rule_set, registries):
    x, R = torch.rand(2, 3, 4).double(), torch.randn(2, 3, 4).double()
    lower = torch.ones(3, 3).double().tril()
    with pytest.raises(UnsupportedModel, match="torch.cumsum"):
        walk_back(lambda x: torch.cumsum(x, 1), R, x)
    relprop.register(torch.cumsum, relprop.rules.proportional(torch.cumsum))
    for spelled in (lambda x: torch.cumsum(x, 1), lambda x: torch.cumsum(dim=1, input=x)):
        (found,) = walk_back(spelled, R, x, rule_set=rule_set)
        torch.testing.assert_close(found, x * (lower.T @ (R / (lower @ x))))
        torch.testing.assert_close(found.sum(dim=(1, 2)), R.sum(dim=(1, 2)))


def test_register_refuses_what_is_no_rule():
    with pytest.raises(ValueError, match="rule is 'same'; accepted: 'moved', 'unchanged'"):
        relprop.register(torch.sin, "same")


def test_rule_set_without_a_rule(tiny_vit, images):
    trace = relprop.record(tiny_vit(), images)
    own = {k: r for k, r in rules.PAPER.items() if k != "matmul"}
    with pytest.raises(UnsupportedModel, match="no rule for 'matmul'; it has: linear, "):
        trace.relevance(torch.zeros(3, dtype=torch.long), rules=own)


class Square(torch.autograd.Function):
    """Its forward pass is no torch function: the recorder cannot see it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class Sum(nn.Module):
    """Of two passes."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Plain()

    def forward(self, x):
        return self.model(x) + self.model(x.flip(-1))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(144, C).double()

    def forward(self, x):
        return self.linear(x.mean(1).flatten(1))


class Unpooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Plain(read=lambda x: x)

    def forward(self, x):
        return self.model(x)


def over_queries(q, k, v):
    attention = (k @ q.mT).softmax(dim=-2)
    return torch.einsum("bhmn,bhmd->bhnd", attention, v), attention


def some_keys(q, k, v):
    return eager(q, k[:, :, :4], v[:, :, :4])


def windows(q, k, v):
    q, k, v = (x.unflatten(2, (2, 5)).transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    y, attention = eager(q, k, v)
    return y.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2, 3), attention


def constant_values(q, k, v):
    scores = (q @ k.mT).softmax(-1)
    return scores @ v.detach(), scores


def written_out_softmax(q, k, v):
    scores = (q @ k.mT).exp()
    return scores / scores.sum(-1, keepdim=True) @ v, scores


def class_token_last(self, x):
    patches = self.embed(x).flatten(2).transpose(1, 2)
    return torch.cat([patches, self.prefix.expand(len(x), -1, -1)], 1) + self.position


def class_token_last_after_positions(self, x):
    patches = self.embed(x).flatten(2).transpose(1, 2) + self.position[:, 1:]
    return torch.cat([patches, self.prefix.expand(len(x), -1, -1)], 1)


def tokens_first(self, x):
    return Plain.tokens(self, x).transpose(0, 1)


def attend_tokens_first(q, k, v):
    y, attention = eager(*(x.transpose(0, 2) for x in (q, k, v)))
    return y.transpose(0, 2), attention


TOKENS_FIRST = {
    "tokens": tokens_first, "attend": attend_tokens_first, "read": lambda x: x[0]
}  # fmt: skip
REFUSED = {
    "custom autograd.Function": (Plain(activate=Square.apply), "not a torch function"),
    "checkpointed by itself": (
        Plain(between=lambda x: checkpoint(F.relu, x, use_reentrant=True)),
        "not a torch function",
    ),
    "two passes": (Sum(), "a second patch embedding"),
    "no attention": (Mixer(), "no attention map was seen"),
    "no logits": (Unpooled(), r"the model returns \[3, 10, 4\]; accepted: logits"),
    "softmax over queries": (Plain(attend=over_queries), "over dimension -2"),
    "softmax written out": (Plain(attend=written_out_softmax), "no relevance rule for .*exp"),
    "cross-attention": (Plain(attend=some_keys), "from some tokens to others"),
    "windows": (Plain(attend=windows), "attention within windows"),
    "constant values": (Plain(attend=constant_values), "no relevance rule for .*matmul"),
    "heads before the batch": (Plain(attend=heads_first_bmm), "batch of 3 is not first"),
    "tokens before the batch": (Plain(**TOKENS_FIRST), "batch of 3 is not their first"),
    "class token last": (Plain(tokens=class_token_last), "appended after the patches"),
    "class token last, after positions": (
        Plain(tokens=class_token_last_after_positions),
        "appended after the patches",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    model, message = REFUSED[name]
    with pytest.raises(UnsupportedModel, match=message):
        relprop.explain(model, pixels())


def test_as_many_samples_as_tokens():
    """The shapes do not tell which dimension is the batch."""
    with pytest.raises(UnsupportedModel, match="the batch of 10 is not first"):
        relprop.record(Plain(**TOKENS_FIRST), pixels(N))
    together = relprop.explain(Plain(), pixels(N)).relevance
    torch.testing.assert_close(together[:3], relprop.explain(Plain(), pixels(N)[:3]).relevance)


def test_attention_map_used_twice_is_one_block():
    def in_halves(q, k, v):
        attention = (q @ k.mT / math.sqrt(D // H)).softmax(-1)
        return torch.cat([attention @ v[..., :3], attention @ v[..., 3:]], -1), attention

    assert_same(everything(Plain(attend=in_halves), pixels()), everything(Plain(), pixels()))
