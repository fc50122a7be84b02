"""Global response norm, x * norm(x over space) / mean of norms: the factor is a constant."""

import pytest
import torch
from timm.layers.grn import GlobalResponseNorm
from torch import nn
from transformers.models.convnextv2.modeling_convnextv2 import ConvNextV2GRN

import relprop
from relprop import UnsupportedModel, rules

SPELLINGS = {  # the module, whether channels are last, and how else the factor is applied
    "transformers": (lambda: ConvNextV2GRN(6), True),
    "timm": (lambda: GlobalResponseNorm(6), True),
    "timm, channels first": (lambda: GlobalResponseNorm(6, channels_last=False), False),
}


class Net(nn.Module):
    def __init__(self, name: str, constant: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        make, self.last = SPELLINGS[name]
        self.stem, self.norm, self.head = nn.Conv2d(3, 6, 2, 2, bias=False), make(), nn.Linear(6, 3)
        nn.init.normal_(self.norm.weight)
        self.head.bias = None
        self.constant = constant  # the norms are

    def forward(self, x):
        x = self.stem(x).relu()
        x = x.permute(0, 2, 3, 1) if self.last else x
        if self.constant:
            space, channels = ((1, 2), 3) if self.last else ((2, 3), 1)
            norms = x.detach().norm(dim=space, keepdim=True)
            y = x + self.norm.weight.view(norms[:1].shape) * (
                x * (norms / (norms.mean(channels, True) + 1e-6))
            )
        else:
            y = self.norm(x)
        return self.head(y.mean((1, 2) if self.last else (2, 3)))


@pytest.fixture
def x():
    return torch.randn(2, 3, 8, 8, dtype=torch.float64)


def times_gradient(model, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x)[:, 1].sum(), x)[0] * x


@pytest.mark.parametrize("name", SPELLINGS)
def test_relevance_is_that_of_a_model_whose_norms_are_constants(name, x):
    trace = relprop.record(Net(name).double(), x)
    target, expected = torch.ones(2, dtype=torch.long), times_gradient(Net(name, True).double(), x)
    for set_ in (rules.attnlrp(), rules.cp_lrp()):  # of ReLU both have the gradient
        found = trace.input_relevance(target, set_)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.sum((1, 2, 3)), trace.logits[:, 1], rtol=1e-9, atol=1e-12)
    conserved = trace.input_relevance(target, "epsilon", eps=0).sum((1, 2, 3))
    torch.testing.assert_close(conserved, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("name", SPELLINGS)
def test_without_corrections_it_is_autograds(name, x):
    model = Net(name).double()
    found = relprop.record(model, x).input_relevance(
        torch.ones(2, dtype=torch.long), rules.GRADIENT
    )
    torch.testing.assert_close(found, times_gradient(model, x))


OTHERS = {
    "another tensor's": lambda x: (x + 1) * x.norm(dim=(2, 3), keepdim=True),
    "one that a convolution has mixed": lambda x: (
        x * (x.norm(dim=(2, 3), keepdim=True) @ torch.ones(1, 1))
    ),
    "of two tensors": lambda x: (
        x.norm(dim=(2, 3), keepdim=True) / (x + 1).norm(dim=(2, 3), keepdim=True)
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_norms_that_normalise_something_else_are_refused(name, x):
    class Other(nn.Module):
        def forward(self, x):
            return OTHERS[name](x).mean((2, 3))

    with pytest.raises(UnsupportedModel):
        relprop.explain(Other(), x.float(), 1, "attnlrp", level="input")
