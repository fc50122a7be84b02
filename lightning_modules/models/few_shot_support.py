"""Which pixels of the support a query was compared with.

For the logit of class c of a query, with A = a_{jm|p} the attention of its patches p to the patches
m of the pictures j of c's support, and G = d logit_c / dA:

    rho_c[j, m] = sum_p w_p^c (G A)^+[p, jm],  w_p^c = ||w_p - t_p^c||^2 / sum_p' ||...||^2

w_p^c is the share of the distance that is decided at patch p. So far rho is of what the last block
puts out; then it is taken down the support pictures' own blocks, the last one first, with A and
G = d logit_c / dA of these:

    rho_c[j] <- rho_c[j] (I + E_h (G A)^+)

It is the rule of Chefer, Gur, Wolf, "Generic Attention-model Explainability" (ICCV 2021) for
attention between two sets of tokens, w_p^c being the readout of the query. Of a head without
attention each patch of the support has the same share of the mean: rho begins with 1 / (K N).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import relprop
from lightning_modules.models.few_shot_heads import CrossHead, tokens_there
from lightning_modules.models.few_shot_net import FewShotNet
from relprop.recording.run import as_if_alone, evaluating


@dataclass(frozen=True)
class Comparison:
    """What one query was compared with, of each class.

    Attributes:
        pictures: the support [C, K, 3, H, W], as the model has it.
        shots: how many of the K pictures each class has, [C].
        attention: a, [C, N, K, N]: of each patch of the query to those of the support, which sums
            to 1 over the pictures of a class; None of a head without attention.
        relevance: rho, [C, K, N], 0 of pictures that are not there.
    """

    pictures: Tensor
    shots: Tensor
    attention: Tensor | None
    relevance: Tensor


class Comparisons:
    """What the queries of a batch were compared with; each is found when it is asked for.

    Args:
        net: the model.
        image: queries [E * Q, 3, H, W].
        support, shots: as of :meth:`.FewShotNet.forward`.
    """

    def __init__(
        self, net: FewShotNet, image: Tensor, support: Tensor, shots: Tensor | None = None
    ) -> None:
        self.net, self.image, self.support = net, image, support
        every = torch.full(support.shape[:2], support.shape[2], device=support.device)
        self.shots = every if shots is None else shots

    def of(self, sample: int) -> Comparison:
        """That of one query, by its place in the batch."""
        episode = sample // (len(self.image) // len(self.support))
        support, shots = self.support[[episode]], self.shots[[episode]]
        with as_if_alone(self.image.device), evaluating(self.net):
            return compare(self.net, self.image[[sample]].clone(), support.clone(), shots)


def compare(net: FewShotNet, image: Tensor, support: Tensor, shots: Tensor) -> Comparison:
    """Compare a query [1, 3, H, W] with its support [1, C, K, 3, H, W], shots [1, C]."""
    with torch.no_grad():
        x, s = net.tokens(image), net.support_tokens(support)
    with torch.enable_grad():
        s.requires_grad_()
        attention, rho, gradient = read(net.head, x, s, shots)
    found = torch.zeros_like(rho)
    for label, count in enumerate(shots[0].tolist()):  # memory holds the support of one class
        pictures, into = support[0, label, :count], gradient[0, label, :count]
        found[label, :count] = through_blocks(net, pictures, into, rho[label, :count])
    return Comparison(support[0], shots[0], attention, found)


def read(
    head: nn.Module, x: Tensor, s: Tensor, shots: Tensor
) -> tuple[Tensor | None, Tensor, Tensor]:
    """a [C, N, K, N]; rho [C, K, N] of what the last block puts out; d logit_c / ds.

    Args:
        x: tokens of a query, [1, N, D].
        s: of its support, [1, C, K, N, D]; a logit depends on those of its own class alone.
        shots: [1, C].
    """
    encoded = head.encode(s, shots)
    if not isinstance(head, CrossHead):
        logits = head(x.unsqueeze(1), encoded)
        there = tokens_there(s, shots)[0].to(s)
        rho = there / there.sum(dim=-1, keepdim=True)
        (gradient,) = torch.autograd.grad(logits.sum(), s)
        return None, rho.unflatten(-1, s.shape[2:4]), gradient
    a = head.attention(x, encoded)
    apart = head.apart(x, a @ encoded[1])
    logits = -apart.mean(dim=-1)
    G, gradient = torch.autograd.grad(logits.sum(), [a, s])
    a, apart = a.detach()[0], apart.detach()[0]
    w = apart / apart.sum(dim=-1, keepdim=True)
    rho = torch.einsum("cp,cpm->cm", w, (G[0] * a).relu())
    return a.unflatten(-1, s.shape[2:4]), rho.unflatten(-1, s.shape[2:4]), gradient


class Reading(nn.Module):
    """A trunk whose tokens are read so that d output / d tokens is ``gradient`` [K, N, D]."""

    def __init__(self, net: FewShotNet, gradient: Tensor) -> None:
        super().__init__()
        self.net, self.gradient = net, gradient

    def forward(self, pictures: Tensor) -> Tensor:
        """[K, 1] of pictures [K, 3, H, W]."""
        return (self.net.tokens(pictures) * self.gradient).sum(dim=(1, 2)).unsqueeze(-1)


def through_blocks(net: FewShotNet, pictures: Tensor, gradient: Tensor, rho: Tensor) -> Tensor:
    """rho [K, N] of what the last block puts out, taken down to pictures [K, 3, H, W]."""
    trace = relprop.record(Reading(net, gradient), pictures)
    G = trace.gradient(torch.zeros(len(pictures), dtype=torch.long, device=pictures.device))
    row = F.pad(rho, (net.trunk.num_prefix_tokens, 0))
    for A, g in zip(reversed(trace.attention), reversed(G), strict=True):
        row = row + torch.einsum("kn,knm->km", row, (g * A).relu().mean(dim=1))
    return row[:, net.trunk.num_prefix_tokens :]
