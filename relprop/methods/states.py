"""Methods of the states of blocks: what they say of the class themselves, and as words."""

from __future__ import annotations

import torch
from torch import Tensor

from relprop.methods.base import method
from relprop.options import Options
from relprop.trace import Found, Trace


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
