"""Explanation methods, each a few lines over a :class:`~relprop.trace.Trace`, found by name.

Notation as in the paper: t the class explained, A^b, G^b = d y_t / d A^b and R^b the attention,
gradient and relevance of block b, [B, H, N, N]; E_h the mean over heads; ^+ clamping at 0; w the
readout [B, N], one-hot at the class token of a model that has one.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral, Real

import torch
from torch import Tensor

from relprop.registry import Registry
from relprop.rules import RuleSet, in_precision, rule_set
from relprop.trace import DEFAULT_EPS, Trace


@dataclass(frozen=True)
class Options:
    """What every method takes; a method that has no use for one of them ignores it.

    ``start_layer``: first block of the product. ``rules``: a rule set or its name; None is the
    method's own. ``eps``: the stabiliser, 0 for exact division. ``normalize_rows``: rows of
    I + A-bar sum to 1 in the product methods (the paper's choice for BERT). ``precision``: that
    of the model, or "bf16", in which the products of the paper's z+ rule are faster; maps hardly
    change. No other rule is affected, neither those of ``lrp`` nor your own.
    """

    start_layer: int = 0
    rules: str | RuleSet | None = None
    eps: float = DEFAULT_EPS
    normalize_rows: bool = False
    precision: str | None = None

    def __post_init__(self) -> None:
        if self.precision not in (None, "bf16"):
            raise ValueError(f"precision is {self.precision!r}; accepted: None (the model's), bf16")
        if not isinstance(self.eps, Real) or not 0 <= self.eps < math.inf:
            raise ValueError(f"eps is {self.eps!r}; accepted: a number, 0 or more")
        if not isinstance(self.start_layer, Integral):
            raise ValueError(f"start_layer is {self.start_layer!r}; accepted: a whole number")


Function = Callable[[Trace, Tensor, Options], Tensor]


@dataclass(frozen=True)
class Method:
    """What is known of an explanation method. Call it as its function is called.

    Attributes:
        name: under which it is found.
        function: (trace, target [B], options) -> relevance of all tokens [B, N]; or of the input's
            alone, [B, ``trace.places.count``]; or of the pixels, [B, H, W].
        rules: name of the rule set that it uses unless told otherwise.
        signed: negative relevance speaks against the class. It is drawn in diverging colours.
        pixels: a picture's relevance is of its pixels, not of its patches.
        product: a product of I + C over blocks, whose I puts a token's relevance on itself.
        ablation: a part of another method, to see what the other part is for.
        frees_graph: tells the trace which of its backward passes is the last.
    """

    name: str
    function: Function
    rules: str = "paper"
    signed: bool = False
    pixels: bool = False
    product: bool = False
    ablation: bool = False
    frees_graph: bool = False

    @property
    def about(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def __call__(self, trace: Trace, target: Tensor, options: Options) -> Tensor:
        trace.check_start_layer(options.start_layer)
        chosen = rule_set(self.rules if options.rules is None else options.rules)
        chosen = in_precision(chosen, options.precision)
        return self.function(trace, target, replace(options, rules=chosen))


METHODS: Registry[Method] = Registry("method")


def method(
    name: str,
    rules: str = "paper",
    *,
    signed: bool = False,
    pixels: bool = False,
    product: bool = False,
    ablation: bool = False,
    frees_graph: bool = False,
) -> Callable[[Function], Function]:
    """Register a function as a :class:`Method`, which says what the arguments are.

    Several classes are explained at once under ``torch.vmap``, whose limits hold for the function;
    with ``max_memory`` a trace is of a part of the batch.

    >>> @method("gradient", signed=True)
    ... def gradient(trace, target, options):
    ...     '''The mean gradient of the attention that each token receives.'''
    ...     return trace.gradient(target)[-1].mean(dim=(1, 2))
    >>> METHODS.pop("gradient").about
    'The mean gradient of the attention that each token receives.'
    """

    rule_set(rules)  # a ValueError where there is none

    def add(function: Function) -> Function:
        record = Method(name, function, rules, signed, pixels, product, ablation, frees_graph)
        METHODS.add(name, record, function)
        return function

    return add


def _heads(maps: Tensor) -> Tensor:
    """E_h (.)^+: [B, H, N, N] -> [B, N, N]."""
    return maps.relu().mean(dim=1)


def _heads_of_product(G: Tensor, maps: Tensor) -> Tensor:
    """E_h (G * .)^+, overwriting G: at [B, H, N, N], another tensor costs more than the product."""
    return G.mul_(maps).relu_().mean(dim=1)


def _readout(trace: Trace, target: Tensor, options: Options) -> Tensor:
    """w [B, N]: how much of the output's relevance each token of the last block holds."""
    trace.check_tokens()
    return trace.readout(target, options.rules, options.eps)


def _readout_of_chain(trace: Trace, target: Tensor, options: Options) -> Tensor:
    """w [B, N], for a product of the maps of blocks."""
    trace.check_chain()
    return _readout(trace, target, options)


def _read(w: Tensor, maps: Tensor) -> Tensor:
    """The readout's row of a map: w M, [B, ..., N, N] -> [B, ..., N]."""
    return torch.einsum("bn,b...nm->b...m", w, maps)


def _read_product(w: Tensor, blocks: list[Tensor], normalize: bool) -> Tensor:
    """w (I + C^L) (I + C^(L-1)) ... (I + C^start), blocks [B, N, N] in the order of the model."""
    for C in reversed(blocks):
        if normalize:
            w = w / (1 + C.sum(dim=-1))
        w = w + (w[:, None] @ C)[:, 0]
    return w


@method("transformer_attribution", product=True, frees_graph=True)
def transformer_attribution(trace: Trace, target: Tensor, options: Options) -> Tensor:
    """The paper's method (eq. 13-14): product of I + E_h (G * R)^+."""
    w = _readout_of_chain(trace, target, options)
    G = trace.gradient(target, options.start_layer)
    R = trace.relevance(target, options.start_layer, options.rules, options.eps, last=True)
    blocks = [_heads_of_product(g, r) for g, r in zip(G, R, strict=True)]
    return _read_product(w, blocks, options.normalize_rows)


@method("generic_attention", product=True, frees_graph=True)
def generic_attention(trace: Trace, target: Tensor, options: Options) -> Tensor:
    """Chefer, Gur, Wolf, ICCV 2021 (eq. 5-6): product of I + E_h (G * A)^+. No relevance pass."""
    w = _readout_of_chain(trace, target, options)
    G = trace.gradient(target, options.start_layer, last=True)
    A = trace.attention[options.start_layer :]
    blocks = [_heads_of_product(g, a) for g, a in zip(G, A, strict=True)]
    return _read_product(w, blocks, options.normalize_rows)


@method("rollout", frees_graph=True)
def rollout(trace: Trace, target: Tensor, options: Options) -> Tensor:
    """Attention rollout (Abnar, Zuidema 2020): product of I + E_h A, rows summing to 1."""
    blocks = [a.mean(dim=1) for a in trace.attention[options.start_layer :]]
    return _read_product(_readout_of_chain(trace, target, options), blocks, normalize=True)


@method("raw_attention", frees_graph=True)
def raw_attention(trace: Trace, target: Tensor, options: Options) -> Tensor:
    """The last block's attention, E_h A^L."""
    return _read(_readout(trace, target, options), trace.attention[-1].mean(dim=1))


@method("gradcam", frees_graph=True)
def gradcam(trace: Trace, target: Tensor, options: Options) -> Tensor:
    """GradCAM on the last block's attention: heads weighted by their mean gradient.

    E_h (mean(G) A), clamped at 0 and scaled to 0..1: for images over the grid, where also the mean
    is taken; for texts over the whole map, as published.
    """
    w = _readout(trace, target, options)
    block = trace.depth - 1
    G = _read(w, trace.gradient(target, block, last=True)[0])
    weight = G[..., trace.prefix :].mean(dim=-1)[..., None, None]
    cam = (trace.attention[-1] * weight).mean(dim=1).clamp(min=0)
    row = _read(w, cam)
    maps, valid = (row[:, trace.prefix :] if trace.grid else cam), trace.valid
    if valid is not None and trace.grid:
        valid = valid[:, trace.prefix :]
    elif valid is not None:  # rows of padding count where the head reads it
        valid = valid[:, None, :] & (valid | (w > 0))[:, :, None]
    low, high = _range(maps, valid)
    return torch.where(high > low, (row - low) / (high - low), 0)


def _range(maps: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Least and greatest value of each map where ``valid``: [B, ...] -> two of [B, 1]."""
    low, high = maps, maps
    if valid is not None:
        low, high = maps.masked_fill(~valid, torch.inf), maps.masked_fill(~valid, -torch.inf)
    return low.flatten(1).amin(dim=1, keepdim=True), high.flatten(1).amax(dim=1, keepdim=True)


@method("lrp", rules="lrp", signed=True, pixels=True, frees_graph=True)
def lrp(trace: Trace, target: Tensor, options: Options) -> Tensor:
    """Relevance all the way to the pixels [B, H, W], or to embeddings or numbers. Signed.

    Of those, what each token takes: [B, places.count].
    """
    relevance = trace.source_relevance(target, options.rules, options.eps, last=True)
    return trace.places.of_source(relevance)


@method("partial_lrp", rules="lrp", frees_graph=True)
def partial_lrp(trace: Trace, target: Tensor, options: Options) -> Tensor:
    """Relevance of the last block's attention (Voita et al. 2019), E_h R^L."""
    w = _readout(trace, target, options)
    block = trace.depth - 1
    R = trace.relevance(target, block, options.rules, options.eps, last=True)[0]
    return _read(w, _heads(R))


# ------------------------------------------------------- ablations (paper section 4, table 4)


@method("without_gradient", product=True, ablation=True, frees_graph=True)
def without_gradient(trace: Trace, target: Tensor, options: Options) -> Tensor:
    """Ablation: product of I + E_h R^+."""
    w = _readout_of_chain(trace, target, options)
    R = trace.relevance(target, options.start_layer, options.rules, options.eps, last=True)
    return _read_product(w, [_heads(r) for r in R], options.normalize_rows)


@method("without_relevance", product=True, ablation=True, frees_graph=True)
def without_relevance(trace: Trace, target: Tensor, options: Options) -> Tensor:
    """Ablation: product of I + E_h G^+, but for masked tokens: they have gradients, too."""
    w = _readout_of_chain(trace, target, options)
    G = trace.gradient(target, options.start_layer, last=True)
    A = trace.attention[options.start_layer :]
    blocks = [_heads_of_product(g, a > 0) for g, a in zip(G, A, strict=True)]
    return _read_product(w, blocks, options.normalize_rows)


def _one_block(trace: Trace, target: Tensor, options: Options, block: int) -> Tensor:
    w = _readout(trace, target, options)
    G = trace.gradient(target, block)[0]
    R = trace.relevance(target, block, options.rules, options.eps, last=True)[0]
    return _read(w, _heads_of_product(G, R))


@method("last_block", ablation=True, frees_graph=True)
def last_block(trace: Trace, target: Tensor, options: Options) -> Tensor:
    """Ablation: E_h (G * R)^+ of the last block alone."""
    return _one_block(trace, target, options, trace.depth - 1)


@method("second_block", ablation=True, frees_graph=True)
def second_block(trace: Trace, target: Tensor, options: Options) -> Tensor:
    """Ablation: E_h (G * R)^+ of the second block alone."""
    return _one_block(trace, target, options, 1)
