"""Explanation methods, each a few lines over a :class:`~relprop.trace.Trace`, found by name.

Notation as in the paper: t the class explained, A^b, G^b = d y_t / d A^b and R^b the attention,
gradient and relevance of block b, [B, H, N, N]; E_h the mean over heads; ^+ clamping at 0; w the
token weights [B, N], one-hot at the class token of a model that has one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from relprop.errors import described
from relprop.options import Options
from relprop.registry import Registry
from relprop.rules import in_precision, rule_set
from relprop.rules.agf import to_largest
from relprop.trace import Found, Trace
from relprop.walks.products import Product

Function = Callable[[Trace, Tensor, Options], Found]


@dataclass(frozen=True)
class Method:
    """What is known of an explanation method. Call it as its function is called.

    Attributes:
        name: under which it is found.
        function: (trace, target [B], options) -> relevance of all tokens of a block [B, N]; or of
            the input's alone, [B, ``trace.places.count``]; or of the pixels, [B, H, W]. By name
            where there are several sources.
        rules: name of the rule set that it uses unless told otherwise.
        signed: negative relevance speaks against the class. It is drawn in diverging colours.
        pixels: a picture's relevance is of its pixels, not of its patches, whatever the model and
            the options.
        product: a product of I + C over blocks, whose I puts a token's relevance on itself.
        ablation: a part of another method, to see what the other part is for.
        diagnosis: it is no map of reasons; who evaluates all methods does not mean it.
        texts: of texts alone.
        pooled: of models that pool their tokens by attention alone.
        frees_graph: tells the trace which of its backward passes is the last.
        conserves: its relevance is to add up to the output explained, but for what biases and
            tokens that are no part of the input take.
    """

    name: str
    function: Function
    rules: str = "paper"
    signed: bool = False
    pixels: bool = False
    product: bool = False
    ablation: bool = False
    frees_graph: bool = False
    diagnosis: bool = False
    texts: bool = False
    pooled: bool = False
    conserves: bool = False

    @property
    def about(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def __call__(self, trace: Trace, target: Tensor, options: Options) -> Found:
        trace.check_start_layer(options.start_layer)
        chosen = rule_set(self.rules if options.rules is None else options.rules)
        chosen = in_precision(chosen, options.precision)
        found = self.function(trace, target, replace(options, rules=chosen))
        for x in found.values() if isinstance(found, dict) else [found]:
            if not isinstance(x, Tensor) or x.ndim not in (2, 3) or len(x) != len(target):
                raise ValueError(
                    f"the method {self.name!r} returns {described(x)}; accepted: relevance of "
                    "tokens [B, N] or of pixels [B, H, W]; of several sources a dict of these"
                )
        return found


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
    diagnosis: bool = False,
    texts: bool = False,
    pooled: bool = False,
    conserves: bool = False,
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
        known = (rules, signed, pixels, product, ablation, frees_graph, diagnosis, texts)
        record = Method(name, function, *known, pooled, conserves)
        METHODS.add(name, record, function)
        return function

    return add


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
        valid = valid[:, None, :] & (valid | (w > 0))[:, :, None]
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


@method("lrp", rules="lrp", signed=True, pixels=True, frees_graph=True, conserves=True)
def lrp(trace: Trace, target: Tensor, options: Options) -> Found:
    """Relevance all the way to the pixels [B, H, W], or to embeddings or numbers. Signed.

    Of those, what each token takes: [B, count].
    """
    found = trace.source_relevance(target, options.ruled, options.eps, last=True)
    return trace.summed(found)


def _factorized(trace: Trace, target: Tensor, options: Options) -> Found:
    """Relevance of the sources; of a convolutional network by its largest, as published."""
    found = trace.source_relevance(target, options.ruled, options.eps, last=True)
    if trace.depth:
        return trace.summed(found)
    several = found if isinstance(found, dict) else {trace.sources[0]: found}
    return trace.summed(trace.by_source({n: to_largest(R, 0) for n, R in several.items()}))


@method("agf", rules="agf", signed=True, pixels=True, frees_graph=True)
def agf(trace: Trace, target: Tensor, options: Options) -> Found:
    """AGF (Gur, Ali, Wolf 2021): relevance whose residual the gradient guides. Signed.

    Of convolutional networks as published. On transformers a form of our own, after it, with the
    factorization left out: it does not carry the class there. Both are in
    :mod:`relprop.rules.agf`. They explain p_t, not y_t, of two classes or more. Several classes
    keep a gradient of each at the same time.
    """
    return _factorized(trace, target, options)


@method("partial_lrp", rules="lrp", frees_graph=True)
def partial_lrp(trace: Trace, target: Tensor, options: Options) -> Found:
    """Relevance of the last block's attention (Voita et al. 2019), E_h R^L."""
    product = replace(RELEVANCE, chosen=trace.last_maps)
    return trace.multiplied(product, target, options.ruled, options.eps)


# ----------------------------------------------------------- corrected gradients at the tokens


def _input_times_gradient(trace: Trace, target: Tensor, options: Options) -> Found:
    """x * g, at token and position embedding, or at the pixels or word embeddings alone."""
    if options.level == "input":
        found = trace.input_relevance(target, options.ruled, options.eps, last=True)
        return trace.summed(found)
    return trace.input_tokens(target, options.ruled, options.eps)


@method("attnlrp", rules="attnlrp", signed=True, frees_graph=True, conserves=True)
def attnlrp(trace: Trace, target: Tensor, options: Options) -> Found:
    """AttnLRP (Achtibat et al. 2024): the gradient with corrections, times the embedding. Signed.

    It asks for no attention maps. ``level="input"``: times the pixels, or the word embeddings.
    """
    return _input_times_gradient(trace, target, options)


@method("cp_lrp", rules="cp_lrp", signed=True, frees_graph=True, conserves=True)
def cp_lrp(trace: Trace, target: Tensor, options: Options) -> Found:
    """CP-LRP (Ali et al. 2022): as attnlrp, but attention maps and gates are constants. Signed."""
    return _input_times_gradient(trace, target, options)


@method("libra", rules="cp_lrp", signed=True)
def libra(trace: Trace, target: Tensor, options: Options) -> Found:
    """LibraGrad (CVPR 2025): sum over the upper half of blocks of z_l * g_l, g by CP-LRP. Signed.

    z_l is the stream after block l, from l = L/2 to L.
    """
    hidden = trace.hidden[-(trace.depth - trace.depth // 2 + 1) :]
    return trace.streamed(hidden, target, options.ruled, options.eps)


# ------------------------------------------------------------ what blocks say of the class itself


@method("class_gradient", signed=True)
def class_gradient(trace: Trace, target: Tensor, options: Options) -> Found:
    """Gradient of each block's own decision to its attention (Vilas et al. 2023). Signed.

    Importance of token j (NeurIPS 2023): - sum_b sum_h dl^b / dA^b [h, :, j], l^b being the cross
    entropy of p^b = softmax(E LN(what the attention of block b adds)), and A^b the block's own. As
    published p^b goes into a cross entropy that takes a softmax of it again. Of the rows of A^b
    that the head reads: that of the class token, where there is one.
    """
    G = trace.branch_gradient(lambda z: _cross_entropy_gradient(z, target))[options.start_layer :]
    return trace.of_entering([-g.sum(dim=(1, 2)) for g in G], options.start_layer)


def _cross_entropy_gradient(z: Tensor, target: Tensor) -> Tensor:
    """dl / dz [B, C] of l = cross_entropy(softmax(z), t), which takes a softmax of its own."""
    p = z.softmax(dim=-1)
    truth = torch.arange(z.shape[1], device=z.device) == target[:, None]
    of_p = p.softmax(dim=-1) - truth.to(z.dtype)  # dl / dp
    return p * (of_p - (p * of_p).sum(dim=-1, keepdim=True))


@method("class_projection", signed=True, diagnosis=True)
def class_projection(trace: Trace, target: Tensor, options: Options) -> Found:
    """Diagnosis: y_t of each token of the last block less the mean of all classes. Signed.

    E LN(h^L) (Vilas et al., NeurIPS 2023) says what a token has become, not what the decision is
    made of: tokens on the background take on the class as well, and the head may read none of
    them. As a map it is blind, so evaluations of all methods leave it out.
    """
    return trace.projected(target, trace.depth - 1)


TAU = 10  # vocabulary entries that a state is decoded into


@method("decoded_saliency", texts=True)
def decoded_saliency(trace: Trace, target: Tensor, options: Options) -> Found:
    """Decoding Layer Saliency (Hou, Castanon, ICML 2023), a reconstruction; of texts alone.

    There is no published implementation, and details are ours: S_i = ||dy_t / dh_i|| of the states
    h that enter block ``start_layer``; P_i = softmax(f_lm(h_i)), less all but its 10 most probable
    entries; q_v = sum_i S_i P_i[v]; a token has q of its id, shared among the places of that id.
    f_lm: ``lm_head``; else the model's own, where its classes are the vocabulary; else LN(h) E^T,
    with E the word embeddings.
    """
    ids, _ = trace.words
    h, G = trace.entering(target, options.start_layer)
    P, entries = trace.decoded(h, options.lm_head).softmax(dim=-1).topk(TAU)  # [B, N, tau]
    held = torch.where(entries[:, :, None] == ids[:, None, :, None], P[:, :, None], 0).sum(dim=-1)
    same = (ids[:, :, None] == ids[:, None]).sum(dim=-1)
    return torch.einsum("bi,bij->bj", torch.linalg.vector_norm(G, dim=-1), held) / same


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


@method(
    "agf_without_gradient",
    rules="agf_without_gradient",
    signed=True,
    pixels=True,
    ablation=True,
    frees_graph=True,
)
def agf_without_gradient(trace: Trace, target: Tensor, options: Options) -> Found:
    """Ablation: C of agf alone, which knows of the class only where it begins. Signed."""
    return _factorized(trace, target, options)


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
