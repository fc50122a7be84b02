"""Methods of attention: products of maps over blocks, and those of single blocks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from relprop.methods.base import method
from relprop.options import Options
from relprop.trace import Found, Trace
from relprop.walks.products import Product


def _heads(maps: Tensor) -> Tensor:
    """E_h (.)^+: [B, H, ..., n, m] -> [B, ..., n, m]."""
    return maps.relu().mean(dim=1)


def _heads_of_product(G: Tensor, maps: Tensor) -> Tensor:
    """E_h (G * .)^+, overwriting G: at [B, H, N, N], another tensor costs more than the product.

    Not where one of them has a graph, which keeps it.
    """
    if G.requires_grad or maps.requires_grad:
        return _heads(G * maps)
    return G.mul_(maps).relu_().mean(dim=1)


def _product(trace: Trace, target: Tensor, options: Options, product: Product) -> Found:
    """w (I + C^L) (I + C^(L-1)) ... (I + C^start), by the walk of weights."""
    product = replace(
        product,
        start_layer=options.start_layer,
        normalize=product.normalize or options.normalize_rows,
    )
    return trace.multiplied(product, target, options.ruled, options.eps)


GRADIENT_RELEVANCE = Product(lambda A, G, R: _heads_of_product(G, R), gradient=True, relevance=True)
RELEVANCE = Product(lambda A, G, R: _heads(R), relevance=True)


@method("transformer_attribution", product=True, frees_graph=True)
def transformer_attribution(trace: Trace, target: Tensor, options: Options) -> Found:
    """The paper's method (eq. 13-14): product of I + E_h (G * R)^+."""
    return _product(trace, target, options, GRADIENT_RELEVANCE)


@method("generic_attention", product=True, frees_graph=True)
def generic_attention(trace: Trace, target: Tensor, options: Options) -> Found:
    """Chefer, Gur, Wolf, ICCV 2021 (eq. 5-6): product of I + E_h (G * A)^+. No relevance pass."""
    product = Product(lambda A, G, R: _heads_of_product(G, A), gradient=True)
    return _product(trace, target, options, product)


@method("attnlrp_attention", rules="attnlrp", product=True, frees_graph=True)
def attnlrp_attention(trace: Trace, target: Tensor, options: Options) -> Found:
    """Product of I + E_h (A * g)^+, with g the gradient as AttnLRP corrects it."""
    return _product(trace, target, options, RELEVANCE)


@method("bimodal_attention", product=True)
def bimodal_attention(trace: Trace, target: Tensor, options: Options) -> Found:
    """The published rule for sets of tokens that attend to each other (ICCV 2021, eq. 10-11).

    Of one set it is generic_attention.
    """
    return trace.gathered(target, options.ruled, options.eps)


@method("rollout", frees_graph=True)
def rollout(trace: Trace, target: Tensor, options: Options) -> Found:
    """Attention rollout (Abnar, Zuidema 2020): product of I + E_h A, rows summing to 1."""
    product = Product(lambda A, G, R: A.mean(dim=1), normalize=True)
    return _product(trace, target, options, product)


@method("raw_attention", frees_graph=True)
def raw_attention(trace: Trace, target: Tensor, options: Options) -> Found:
    """The last block's attention, E_h A^L."""
    product = Product(lambda A, G, R: A.mean(dim=1), chosen=trace.last_maps)
    return trace.multiplied(product, target, options.ruled, options.eps)


@method("pooling_attention", pooled=True)
def pooling_attention(trace: Trace, target: Tensor, options: Options) -> Found:
    """The attention by which the tokens are pooled, E_h A, without its class column.

    The picture of attention-based aggregation (Touvron et al. 2021, arXiv 2112.13692): of the last
    layer in which a learned query, or a class token, attends to the tokens. It is of the class
    where each class has a query of its own, else the same for all classes. The blocks below it are
    not asked.
    """
    return trace.pooled(target, options.ruled, options.eps)


@method("gradcam", frees_graph=True)
def gradcam(trace: Trace, target: Tensor, options: Options) -> Tensor:
    """GradCAM on the last block's attention: heads weighted by their mean gradient.

    E_h (mean(G) A), clamped at 0 and scaled to 0..1: for images over the grid, where also the mean
    is taken; for texts over the whole map, as published. Of one chain of blocks.
    """
    pools = trace.pools
    w = trace.token_weights(target, options.ruled, options.eps)
    prefix = trace.prefix
    (G,) = trace.gradient(target, trace.depth - 1, last=True)
    weight = _read(w, G)[..., prefix:].mean(dim=-1)[..., None, None]
    cam = (trace.attention[-1] * weight).mean(dim=1).clamp(min=0)
    row = _read(w, cam)
    maps, valid = (row[:, prefix:] if trace.grid else cam), trace.valid
    if valid is not None and trace.grid:
        valid = valid[:, prefix:]
    elif valid is not None:  # rows of padding count where the head reads it
        rows = torch.ones_like(w, dtype=torch.bool) if pools else valid | (w > 0)
        valid = valid[:, None, :] & rows[:, :, None]
    low, high = _range(maps, valid)
    is_flat = ~(high > low)
    return ((row - low) / (high - low).masked_fill(is_flat, 1)).masked_fill(is_flat, 0)


def _read(w: Tensor, maps: Tensor) -> Tensor:
    """The row of a map that the head reads: w M, [B, ..., N, N] -> [B, ..., N]."""
    return torch.einsum("bn,b...nm->b...m", w, maps)


def _range(maps: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Least and greatest value of each map where ``valid``: [B, ...] -> two of [B, 1]."""
    low, high = maps, maps
    if valid is not None:
        low, high = maps.masked_fill(~valid, torch.inf), maps.masked_fill(~valid, -torch.inf)
    return low.flatten(1).amin(dim=1, keepdim=True), high.flatten(1).amax(dim=1, keepdim=True)


@method("partial_lrp", rules="lrp", frees_graph=True)
def partial_lrp(trace: Trace, target: Tensor, options: Options) -> Found:
    """Relevance of the last block's attention (Voita et al. 2019), E_h R^L."""
    product = replace(RELEVANCE, chosen=trace.last_maps)
    return trace.multiplied(product, target, options.ruled, options.eps)


# ------------------------------------------------------- ablations (paper section 4, table 4)


@method("without_gradient", product=True, ablation=True, frees_graph=True)
def without_gradient(trace: Trace, target: Tensor, options: Options) -> Found:
    """Ablation: product of I + E_h R^+."""
    return _product(trace, target, options, RELEVANCE)


@method("without_relevance", product=True, ablation=True, frees_graph=True)
def without_relevance(trace: Trace, target: Tensor, options: Options) -> Found:
    """Ablation: product of I + E_h G^+, but for masked tokens: they have gradients, too."""
    product = Product(lambda A, G, R: _heads_of_product(G, A > 0), gradient=True)
    return _product(trace, target, options, product)


@method("last_block", ablation=True, frees_graph=True)
def last_block(trace: Trace, target: Tensor, options: Options) -> Found:
    """Ablation: E_h (G * R)^+ of the last block alone."""
    product = replace(GRADIENT_RELEVANCE, chosen=trace.last_maps)
    return trace.multiplied(product, target, options.ruled, options.eps)


@method("second_block", ablation=True, frees_graph=True)
def second_block(trace: Trace, target: Tensor, options: Options) -> Found:
    """Ablation: E_h (G * R)^+ of the second block alone."""
    product = replace(GRADIENT_RELEVANCE, chosen=trace.only_map(1))
    return trace.multiplied(product, target, options.ruled, options.eps)
