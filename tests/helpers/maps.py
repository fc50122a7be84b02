"""Attention maps of a model that computes them in the open, in the graph, as plain torch has them.

Nothing here imports ``relprop``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SOFTMAX = (torch.softmax, torch.Tensor.softmax, F.softmax)


class Softmaxes(TorchFunctionMode):
    """Keeps what every softmax returns while it is on, in the order of the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[Tensor] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        if function in SOFTMAX:
            self.maps.append(result)
        return result


def scattered(model: nn.Module, std: float = 0.3) -> nn.Module:
    """In float64, with weights that make attention uneven and no bias or norm trivial."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model.double().eval()


def gradients(y: Tensor, maps: list[Tensor]) -> list[Tensor]:
    """dy/dA of each map by autograd; 0 of a map that nothing depends on."""
    found = torch.autograd.grad(y.sum(), maps, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(a) if g is None else g for g, a in zip(found, maps, strict=True)]
