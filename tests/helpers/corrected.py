"""AttnLRP and CP-LRP of four small transformers, from the equations and in plain torch.

The forward passes are written out by hand over a state dict under the library's own names, and a
correction of the gradient is written as what is held constant: x * (y / x) with a constant y / x
has the gradient g * y / x. Relevance is then x * g. Nothing here imports ``relprop``.

AttnLRP: Achtibat et al., ICML 2024. CP-LRP: Ali et al., ICML 2022. Gamma rule: Montavon et al.
2019, in the form for negative activations and outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


class Half(torch.autograd.Function):
    """The same; half of the gradient: a product of two streams."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient / 2


class Gamma(torch.autograd.Function):
    """y = x W^T + b, of vectors x [..., in], by the gamma rule as zennit has it.

    Relevance R = y * gradient goes in and R_x / x comes out. Where y > 0 the products x W^T are
    weighted by 1 + gamma if positive; where y < 0 if negative.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, gamma: float, stabiliser: float) -> Tensor:
        y = F.linear(x, weight, bias)
        ctx.save_for_backward(x, weight, bias, y)
        ctx.gamma, ctx.stabiliser = gamma, stabiliser
        return y

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, weight, bias, y = ctx.saved_tensors
        products = x[..., None, :] * weight  # [..., out, in]
        bias = torch.zeros_like(y) if bias is None else bias.expand_as(y)
        relevance = torch.zeros_like(x)
        for sign in (1, -1):
            strengthened = products + ctx.gamma * products * (sign * products > 0)
            of_bias = bias + ctx.gamma * bias * (sign * bias > 0)
            z = strengthened.sum(-1) + of_bias
            z = z + ctx.stabiliser * torch.where(z >= 0, 1.0, -1.0)
            R = torch.where(sign * y > 0, y * gradient, 0)
            relevance = relevance + (strengthened * (R / z)[..., None]).sum(-2)
        return torch.where(x == 0, 0, relevance / x), None, None, None, None


@dataclass
class Corrected:
    """Operations with the corrections of one method. ``maps`` holds the attention of each block.

    ``gamma`` for linear layers (those of attention too, if ``of_attention``), ``patch_gamma`` for
    the patch embedding; 0 is the epsilon rule with epsilon 0.
    """

    method: str
    gamma: float = 0.0
    patch_gamma: float = 0.0
    stabiliser: float = 1e-12
    of_attention: bool = True
    maps: list[Tensor] = field(default_factory=list)

    def linear(self, x: Tensor, w: Weights, name: str) -> Tensor:
        weight, bias = w[f"{name}.weight"], w.get(f"{name}.bias")
        if self.gamma == 0 or (".attn." in name and not self.of_attention):
            return F.linear(x, weight, bias)
        return Gamma.apply(x, weight, bias, self.gamma, self.stabiliser)

    def patches(self, pixels: Tensor, w: Weights, name: str) -> Tensor:
        """[B, C, S, S] -> [B, patches, D]: a linear layer of each patch's own pixels."""
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        size = weight.shape[-1]
        x = F.unfold(pixels, size, stride=size).mT
        if self.patch_gamma == 0:
            return F.linear(x, weight.flatten(1), bias)
        return Gamma.apply(x, weight.flatten(1), bias, self.patch_gamma, self.stabiliser)

    def layer_norm(self, x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
        deviation = (x.var(-1, correction=0, keepdim=True) + eps).sqrt().detach()
        x = (x - x.mean(-1, keepdim=True)) / deviation
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def rms_norm(self, x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
        size = (x.square().mean(-1, keepdim=True) + eps).sqrt().detach()
        return x / size * w[f"{name}.weight"]

    def activation(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        y = function(x).detach()
        return x * torch.where(x == 0, 0, y / x).detach()

    def gated(self, activated: Tensor, x: Tensor) -> Tensor:
        if self.method == "cp_lrp":
            return activated.detach() * x
        return Half.apply(activated * x)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, H, N, d] each -> [B, N, H d]. Scaled by 1 / sqrt(d); ``mask`` True where kept."""
        scores = q @ k.mT
        if self.method == "attnlrp":
            scores = Half.apply(scores)
        scores = scores / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        attention = scores.softmax(-1)
        if self.method == "cp_lrp":
            attention = attention.detach()
        else:
            self.maps.append(attention)
        y = attention @ v
        if self.method == "attnlrp":
            y = Half.apply(y)
        return y.transpose(1, 2).flatten(2)

    def relevance(self, logits: Tensor, target: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
        """x * gradient of each of ``of``, from the logits of ``target`` [B]."""
        start = logits.gather(1, target[:, None]).sum()
        found = torch.autograd.grad(start, of, retain_graph=True)
        return tuple((x * g).detach() for x, g in zip(of, found, strict=True))


def heads(x: Tensor, count: int) -> Tensor:
    """[B, N, H d] -> [B, H, N, d]."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def causal(length: int) -> Tensor:
    return torch.ones(length, length).tril().bool()


def vit(c: Corrected, w: Weights, pixels: Tensor, count: int = 3) -> tuple[Tensor, Tensor]:
    """timm's: the logits, and the tokens + position embeddings that enter block 0."""
    x = c.patches(pixels, w, "patch_embed.proj")
    x0 = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
    x = x0
    for b in range(sum(name.endswith("norm1.weight") for name in w)):
        at = f"blocks.{b}."
        y = c.linear(c.layer_norm(x, w, at + "norm1", 1e-6), w, at + "attn.qkv")
        y = c.attend(*(heads(part, count) for part in y.chunk(3, -1)))
        x = x + c.linear(y, w, at + "attn.proj")
        y = c.linear(c.layer_norm(x, w, at + "norm2", 1e-6), w, at + "mlp.fc1")
        x = x + c.linear(c.activation(F.gelu, y), w, at + "mlp.fc2")
    return c.linear(c.layer_norm(x, w, "norm", 1e-6)[:, 0], w, "head"), x0


def bert(
    c: Corrected, w: Weights, words: Tensor, types: Tensor, mask: Tensor, count: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """Hugging Face's classifier, from word embeddings: logits; their sum with positions and types
    before its norm; and after it."""
    at = "bert.embeddings."
    positions = w[at + "position_embeddings.weight"][: words.shape[1]]
    x0 = words + positions + w[at + "token_type_embeddings.weight"][types]
    x = normed = c.layer_norm(x0, w, at + "LayerNorm", 1e-12)
    for b in range(sum(name.endswith("query.weight") for name in w)):
        at = f"bert.encoder.layer.{b}."
        q, k, v = (
            heads(c.linear(x, w, f"{at}attention.self.{part}"), count)
            for part in ("query", "key", "value")
        )
        y = c.attend(q, k, v, mask[:, None, None].bool())
        y = x + c.linear(y, w, at + "attention.output.dense")
        x = c.layer_norm(y, w, at + "attention.output.LayerNorm", 1e-12)
        y = c.activation(F.gelu, c.linear(x, w, at + "intermediate.dense"))
        y = x + c.linear(y, w, at + "output.dense")
        x = c.layer_norm(y, w, at + "output.LayerNorm", 1e-12)
    pooled = c.activation(torch.tanh, c.linear(x[:, 0], w, "bert.pooler.dense"))
    return c.linear(pooled, w, "classifier"), x0, normed


def gpt2(c: Corrected, w: Weights, words: Tensor, count: int = 3) -> tuple[Tensor, Tensor]:
    """Hugging Face's: logits of the last position, and words + positions."""
    w = {n: x.mT if n.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else x
         for n, x in w.items()}  # fmt: skip
    x = x0 = words + w["transformer.wpe.weight"][: words.shape[1]]
    mask = causal(words.shape[1])
    for b in range(sum(name.endswith("ln_1.weight") for name in w)):
        at = f"transformer.h.{b}."
        y = c.linear(c.layer_norm(x, w, at + "ln_1", 1e-5), w, at + "attn.c_attn")
        y = c.attend(*(heads(part, count) for part in y.chunk(3, -1)), mask)
        x = x + c.linear(y, w, at + "attn.c_proj")
        y = c.linear(c.layer_norm(x, w, at + "ln_2", 1e-5), w, at + "mlp.c_fc")
        y = c.activation(lambda x: F.gelu(x, approximate="tanh"), y)
        x = x + c.linear(y, w, at + "mlp.c_proj")
    return c.linear(c.layer_norm(x, w, "transformer.ln_f", 1e-5)[:, -1], w, "lm_head"), x0


def rotated(x: Tensor, base: float) -> Tensor:
    """Rotary positions of [B, H, N, d]: entry i turns with entry i + d/2."""
    half = x.shape[-1] // 2
    frequencies = base ** -(torch.arange(half, dtype=x.dtype) / half)
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * frequencies
    a, b = x.split(half, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def llama(
    c: Corrected,
    w: Weights,
    words: Tensor,
    mask: Tensor | None = None,
    count: int = 4,
    groups: int = 2,
    eps: float = 1e-6,
    base: float = 10000.0,
) -> Tensor:
    """The stream after the last norm of Hugging Face's Llama or Qwen3, [B, N, D].

    ``groups`` key-value heads; norms of queries and keys where the weights have them. ``mask``
    [B, N], 1 where there is a token: positions count all tokens.
    """
    x, kept = words, causal(words.shape[1])
    if mask is not None:
        kept = kept & mask[:, None, None].bool()
    for b in range(sum(name.endswith("q_proj.weight") for name in w)):
        at = f"model.layers.{b}."
        y = c.rms_norm(x, w, at + "input_layernorm", eps)
        q, k, v = (
            heads(c.linear(y, w, f"{at}self_attn.{part}_proj"), n)
            for part, n in (("q", count), ("k", groups), ("v", groups))
        )
        if f"{at}self_attn.q_norm.weight" in w:
            q = c.rms_norm(q, w, at + "self_attn.q_norm", eps)
            k = c.rms_norm(k, w, at + "self_attn.k_norm", eps)
        q, k = rotated(q, base), rotated(k, base)
        k, v = (x.repeat_interleave(count // groups, 1) for x in (k, v))
        x = x + c.linear(c.attend(q, k, v, kept), w, at + "self_attn.o_proj")
        y = c.rms_norm(x, w, at + "post_attention_layernorm", eps)
        gate = c.activation(F.silu, c.linear(y, w, at + "mlp.gate_proj"))
        y = c.gated(gate, c.linear(y, w, at + "mlp.up_proj"))
        x = x + c.linear(y, w, at + "mlp.down_proj")
    return c.rms_norm(x, w, "model.norm", eps)
