"""Results made up, as explain.py finds them."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from lightning_modules.explanations.entries import Entry, Shared
from lightning_modules.explanations.files import FORMATS, make_entry
from lightning_modules.explanations.results import Result
from lightning_modules.modalities import Images, Texts
from lightning_modules.modalities.images.part import ImagePart
from lightning_modules.modalities.texts.part import TextPart


def of_text(
    text: str, words: Sequence[tuple[int, int]], relevance: Mapping[str, np.ndarray], **about
) -> Result:
    part = TextPart(Texts("text", {}), text, relevance, words=words)
    return Result(parts={"text": part}, **about)


def of_picture(
    picture: Image.Image,
    relevance: Mapping[str, np.ndarray],
    region: tuple[float, float, float, float] | None = None,
    **about,
) -> Result:
    """``region``: that the model saw, in 64 x 64 pixels; None: all."""
    size = picture.size
    part = ImagePart(
        Images("image", {}),
        picture,
        relevance,
        region=region or (0, 0, *size),
        size=size,
        given=(64, 64),
    )
    return Result(parts={"image": part}, **about)


def as_written(results: Sequence[Result]) -> tuple[list[Entry], Shared]:
    """What the writers of files take of results."""
    first = results[0]
    shared = Shared(first.class_names, first.activation, first.methods)
    return [make_entry(result, FORMATS) for result in results], shared
