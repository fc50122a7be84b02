"""Which methods are asked of which cases, where every method of every case would take minutes."""

from collections.abc import Iterable

import relprop

# Those that are of pictures and other numbers as well as of texts, however they are pooled.
OF_ALL_INPUTS = [
    name for name, method in relprop.METHODS.items() if not (method.texts or method.pooled)
]
# Those of texts whose tokens no attention pools.
OF_TEXTS = [name for name, method in relprop.METHODS.items() if not method.pooled]
# One of each way back: products of attention maps with gradients and without, relevance of pixels,
# corrected gradients of the embeddings, and those of each block.
WAYS = ("transformer_attribution", "rollout", "lrp", "attnlrp", "libra")


def crossed(cases: Iterable) -> list[tuple]:
    """Each case with a method of each way, and the first case with all methods."""
    first, *others = cases
    pairs = [(first, method) for method in OF_ALL_INPUTS]
    return pairs + [(case, method) for case in others for method in WAYS]
