"""The models and inputs that are measured; random weights, the time does not depend on them."""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

import relprop

NAMES = ("deit_tiny", "vit_base", "bert_base_128", "bert_base_512")
METHODS = [name for name, method in relprop.METHODS.items() if not method.texts]  # of all of them
OF_TEXTS = [name for name, method in relprop.METHODS.items() if method.texts]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def build(name: str, attention: str = "sdpa") -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("bert"):
        config = BertConfig(num_labels=2, attn_implementation=attention)
        return BertForSequenceClassification(config).to(DEVICE).eval()
    timm.layers.set_fused_attn(attention == "sdpa")
    return timm.create_model(f"{name}_patch16_224").to(DEVICE).eval()


def inputs(name: str, batch: int) -> Tensor | dict[str, Tensor]:
    if name.startswith("bert"):
        ids = torch.randint(1000, 30000, (batch, int(name.rsplit("_", 1)[1])), device=DEVICE)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return torch.randn(batch, 3, 224, 224, device=DEVICE)


def logits(model: nn.Module, x: Tensor | dict[str, Tensor]) -> Tensor:
    return model(**x).logits if isinstance(x, dict) else model(x)


@torch.no_grad()
def forward(model: nn.Module, x: Tensor | dict[str, Tensor]) -> Tensor:
    """What everything is measured in: plain inference, in the library's fastest attention."""
    return logits(model, x)


def explain(model: nn.Module, x: Tensor | dict[str, Tensor], method: str, **options) -> Tensor:
    return relprop.explain(model, x, 1, method, **options).relevance


def explain_classes(model: nn.Module, x: Tensor, classes: int) -> list[relprop.Explanation]:
    return relprop.explain_classes(relprop.record(model, x), range(classes))


def prepare_forward(name: str, batch: int):
    model, x = build(name), inputs(name, batch)
    return lambda: forward(model, x)


def prepare_backward(name: str, batch: int):
    """Plain autograd, forward and backward, with eager attention: the yardstick of memory."""
    model, x = build(name, "eager"), inputs(name, batch)
    return lambda: logits(model, x)[:, 1].sum().backward()


def prepare_explain(name: str, batch: int, method: str, options: dict):
    model, x = build(name), inputs(name, batch)
    return lambda: explain(model, x, method, **options)
