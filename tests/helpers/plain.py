"""A transformer written out by hand, and all that a recording of it yields."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop

B, N, D, H, C = 3, 10, 12, 2, 4  # batch, tokens, channels, heads, classes


def eager(q: Tensor, k: Tensor, v: Tensor, mask=None) -> tuple[Tensor, Tensor]:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    attention = (scores if mask is None else scores + mask).softmax(dim=-1)
    return attention @ v, attention


def additive(kept: Tensor, value: float = -math.inf) -> Tensor:
    return torch.zeros(kept.shape, dtype=torch.float64).masked_fill(~kept, value)


def fused(q, k, v, mask=None, **options):
    return F.scaled_dot_product_attention(q, k, v, mask, **options), None


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
    for name in ("paper", "lrp"):
        found[f"relevance, {name}"] = torch.stack(trace.relevance(target, rules=name, eps=0.0))
        found[f"source, {name}"] = trace.source_relevance(target, rules=name, eps=0.0)
        found[f"token weights, {name}"] = trace.token_weights(target, rules=name, eps=0.0)
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, e in expected.items():
        assert e.std() > 0
        f = found[name]
        assert (f - e).abs().max() <= 1e-9 * e.abs().max(), name


def autograd_gradients(model: Plain, *inputs) -> tuple[Tensor, ...]:
    y = model(*inputs)
    return torch.autograd.grad(y[torch.arange(len(y)), torch.arange(len(y)) % C].sum(), model.maps)
