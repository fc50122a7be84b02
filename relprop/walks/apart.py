"""Whether what is explained of a sample is made of that sample alone."""

from __future__ import annotations

import torch

from relprop.errors import UnsupportedModel
from relprop.walks.backward import Backward, Top

# What is explained, and what of it is of one sample.
ACCEPTED = {
    "scores": "of a model that compares all pictures with all texts each with its own, "
    "target=torch.arange(B)",
    "probabilities": "a method that explains scores, such as attnlrp",
}


def check_apart(backward: Backward, top: Top, of: str = "scores") -> None:
    """Raises UnsupportedModel where the score of one sample depends on the input of another.

    Or its probability, which is of all its scores. As of CLIP, whose scores are of every picture
    with every text. With other weights for each sample the gradient of a sample is a multiple of
    what it was, if it is of that sample's score.
    """
    recording = backward.recording
    if not recording.is_coupled or recording.batch_size == 1:
        return
    scores, (start,) = top
    names, tensors = zip(*((n, s.tensor) for n, s in recording.sources.items()), strict=True)
    rows = torch.arange(1, recording.batch_size + 1).to(start)
    once = backward.pull(scores, [start], tensors, None)
    weighted = backward.pull(scores, [start * rows[:, None]], tensors, None)
    for name, x, y in zip(names, once, weighted, strict=True):
        expected = x * rows.view(-1, *[1] * (x.ndim - 1))
        if (y - expected).abs().max() > torch.finfo(y.dtype).eps ** 0.5 * y.abs().max():
            raise UnsupportedModel(
                f"the {of} that are explained depend on {name!r} of other samples, whose "
                f"relevance would be of the wrong sample; accepted: {ACCEPTED[of]}; or one sample "
                "at a time"
            )
