"""Methods of relevance, and of gradients corrected by it, down to the input."""

from __future__ import annotations

from torch import Tensor

from relprop.methods.base import method
from relprop.options import Options
from relprop.rules.agf import to_largest
from relprop.trace import Found, Trace


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
