"""What a recording refuses, rather than let a map be silently wrong."""

from __future__ import annotations

from torch import Tensor
from torch.overrides import resolve_name

from relprop.errors import UnsupportedModel
from relprop.operations import OPERATIONS, is_recorded, on_path, tensors_in


def check_batch_first(output: Tensor, batch: int) -> None:
    """Of a sum of two streams: relevance is shared out per sample."""
    if output.shape[0] != batch:
        raise UnsupportedModel(
            f"two streams of shape {list(output.shape)} are added, but the batch of "
            f"{batch} is not their first dimension: relevance per sample "
            "needs batch-first models with attention over all tokens, not over windows"
        )


def check_patches(patches: Tensor, batch: int) -> None:
    """Of pixels that a patch embedding takes: what it makes of them depends on the picture."""
    if patches.shape[0] != batch:
        raise UnsupportedModel(
            f"a patch embedding of a tensor of shape {list(patches.shape)} for a batch of {batch}; "
            "accepted: batch first, [batch, patches, values] or [batch, channels, height, width]"
        )


def check_attention(attention: Tensor, batch: int, before: list[Tensor]) -> None:
    """An attention map leads from every token of the input to every other, as those before."""
    of_all_heads = attention.ndim == 3 and attention.shape[0] % batch == 0  # [B * H, N, N]
    if not of_all_heads and (attention.ndim != 4 or attention.shape[0] != batch):
        raise UnsupportedModel(
            f"attention maps of shape {list(attention.shape)} for a batch of {batch}: "
            "attention within windows (Swin) has no token that sees the whole input; models "
            "with global attention, [batch, heads, tokens, tokens], are accepted"
        )
    if attention.shape[-1] != attention.shape[-2]:
        raise UnsupportedModel(
            f"attention maps of shape {list(attention.shape)} lead from some tokens to others; "
            "self-attention, [batch, heads, tokens, tokens], is accepted"
        )
    if before and attention.shape[-1] != before[-1].shape[-1]:
        raise UnsupportedModel(
            f"block {len(before)} attends to {attention.shape[-1]} tokens and the block before it "
            f"to {before[-1].shape[-1]}: tokens are dropped, merged or added between blocks, and "
            "maps are multiplied token by token; accepted: the same tokens in all blocks"
        )


def check_block(height: int, block: int) -> None:
    """The values of an attention map depend on the map of the block before, and on no later one.

    ``height``: how many maps the values depend on; ``block``: that of the attention map.
    """
    if height != block:
        raise UnsupportedModel(
            f"attention map {block} is not that of the next block: maps are multiplied block by "
            "block; not accepted: two attentions side by side, cross-attention, a second pass over "
            "the input, a map that is used in a later block again"
        )


def check_one_pass(output: Tensor, embeddings: Tensor | None) -> None:
    """Of a look-up of ids after the first attention map."""
    if embeddings is not None and output.shape[:-1] == embeddings.shape[:-1]:
        raise UnsupportedModel(
            "a second pass over the input: the model embeds its ids again after it has attended to "
            "them, and relevance follows one pass; explain the passes one by one"
        )


def check_recorded(path: list[Tensor]) -> None:
    """Relevance would cross what the recorder has not seen as a gradient does: silently wrong."""
    for x in path:
        if not is_recorded(x):
            raise UnsupportedModel(
                f"a tensor of shape {list(x.shape)} depends on the input, but came out of code "
                "that is not a torch function (a custom autograd.Function, a scripted function, a "
                "full backward hook): relevance cannot cross it; write it in torch functions"
            )


def check_softmax(input: Tensor, dim=None, *args, **kwargs) -> None:
    if dim not in (-1, input.ndim - 1):
        raise UnsupportedModel(
            f"softmax of attention scores over dimension {dim}; accepted: the last, the keys"
        )


ACCEPTED = {
    "patch_embedding": "; accepted: one convolution, the patch embedding, of the picture itself, "
    "its pixels shifted, scaled, padded or rearranged alone",
}
"""Of an operation: how it may be called."""


def run_unknown(function, args, kwargs):
    """A call without a rule is an error, unless nothing that relevance could follow comes out."""
    output = function(*args, **kwargs)
    if any(on_path(t) for t in tensors_in(output)):
        name = resolve_name(function) or repr(function)
        if function in OPERATIONS:
            called = " and ".join(
                f"{'a tensor' if on_path(t) else 'a constant'} {list(t.shape)}"
                for t in tensors_in(*args, *kwargs.values())
            )
            called += ACCEPTED.get(OPERATIONS[function], "")
            raise UnsupportedModel(f"no relevance rule for {name} as called here, of {called}")
        raise UnsupportedModel(
            f"no relevance rule for {name}; register one: "
            f"relprop.register({name}, rule), with rule 'unchanged', 'moved' or a function"
        )
    return output
