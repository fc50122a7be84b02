"""Results made up, as explain.py finds them."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from lightning_modules.explanations.entries import Entry, Shared
from lightning_modules.explanations.files import FORMATS, make_entry
from lightning_modules.explanations.results import Result
from lightning_modules.modalities import Images, Texts
from lightning_modules.modalities.images.compared import ComparedPart, Support
from lightning_modules.modalities.images.part import ImagePart
from lightning_modules.modalities.images.queries import QueryImages
from lightning_modules.modalities.texts.part import TextPart
from lightning_modules.models.few_shot_support import Comparison


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


def of_query(found: Comparison) -> Result:
    """A random picture of 32 x 32 pixels and 2 x 2 patches, compared with a support."""
    random = np.random.default_rng(0)
    part = ComparedPart(
        QueryImages("image", {}),
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)),
        {"transformer_attribution": random.random((2, 2, 2)).astype(np.float32)},
        region=(0, 0, 32, 32),
        size=(32, 32),
        given=(32, 32),
        support=Support.of(found, {"mean": [0.0] * 3, "std": [1.0] * 3}),
    )
    about = (["ant", "bee"], np.log([0.6, 0.4]), "softmax", [0, 1], 0)
    return Result("query.png", *about, parts={"image": part})


def as_written(results: Sequence[Result]) -> tuple[list[Entry], Shared]:
    """What the writers of files take of results."""
    first = results[0]
    shared = Shared(first.class_names, first.activation, first.methods)
    return [make_entry(result, FORMATS) for result in results], shared
