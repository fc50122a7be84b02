"""Small models whose every parameter counts; derivatives of maps by finite differences."""

from collections.abc import Mapping

import pytest
import torch
import transformers
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import relprop

STEP, TOLERANCE = 1e-5, 1e-6
# Relevance by a quotient has huge higher derivatives where its denominator crosses 0.
STEEP = ["transformer_attribution", "lrp", "partial_lrp", "without_gradient", "last_block"]
STEEP += ["second_block", "agf", "agf_without_gradient"]
STEP_OF_STEEP, TOLERANCE_OF_STEEP = 1e-7, 1e-5


def jittered(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():  # those of norms and biases start as 0 or 1
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model.double().eval()


def picture(kind: type[nn.Module] = VisionTransformer, **options) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
    model = jittered(kind(**sizes, num_classes=4, **options))
    return model, torch.randn(2, 3, 16, 16, dtype=torch.float64)


def text(kind: str, **options) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "num_labels": 4, "max_position_embeddings": 20}
    if kind == "Bert":
        sizes |= {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
        sizes |= {"intermediate_size": 32}
    else:
        sizes |= {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32}
    config = getattr(transformers, f"{kind}Config")(**sizes, **options)
    model = jittered(getattr(transformers, f"{kind}ForSequenceClassification")(config))
    ids, mask = torch.randint(1, 30, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    mask[1, 5:] = 0
    return model, {"input_ids": ids, "attention_mask": mask}


MODELS = {
    "class token": lambda: picture(),
    "mean-pooled": lambda: picture(global_pool="avg", class_token=False),
    "distilled": lambda: picture(VisionTransformerDistilled),
    "registers": lambda: picture(reg_tokens=2),
    "LayerScale": lambda: picture(init_values=0.5),
    "BERT, SDPA": lambda: text("Bert", attn_implementation="sdpa"),
    "BERT, eager": lambda: text("Bert", attn_implementation="eager"),
    "DistilBERT": lambda: text("DistilBert"),
}


def map_of(model: nn.Module, inputs, method: str, differentiable=False, **options) -> Tensor:
    """Relevance for class 1."""
    trace = relprop.record(model, inputs, differentiable=differentiable)
    return relprop.explain_trace(trace, 1, method, **options).relevance


def both_derivatives(
    model: nn.Module,
    inputs,
    method: str,
    *directions: Mapping[str, Tensor],
    of_steep: float = STEP_OF_STEEP,
) -> list[tuple[float, float]]:
    """Of a weighted sum of a map, along changes of parameters: by its graph, and measured.

    A direction is made one of length 1, and a step has ``of_steep`` where the method is STEEP.
    """
    found = map_of(model, inputs, method, "exact")
    weights = torch.randn_like(found)
    parameters, step = dict(model.named_parameters()), of_steep if method in STEEP else STEP
    loss = (found * weights).sum()
    each = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    gradients = dict(zip(parameters, each, strict=True))

    def moved(direction: Mapping[str, Tensor], by: float) -> float:
        for name, x in direction.items():
            parameters[name].data += by * x
        value = (map_of(model, inputs, method) * weights).sum()
        for name, x in direction.items():
            parameters[name].data -= by * x
        return float(value)

    pairs = []
    for given in directions:
        length = torch.stack([x.norm() for x in given.values()]).norm()
        direction = {name: x / length for name, x in given.items()}
        known = [(gradients[name], x) for name, x in direction.items()]
        ours = sum(float((g * x).sum()) for g, x in known if g is not None)
        pairs.append((ours, (moved(direction, step) - moved(direction, -step)) / (2 * step)))
    return pairs


def right(measured: float, method: str):
    """What equals a measured derivative, as far as it can be measured."""
    rel = TOLERANCE_OF_STEEP if method in STEEP else TOLERANCE
    return pytest.approx(measured, rel=rel, abs=rel * 1e-3)
