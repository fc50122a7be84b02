"""What notebooks of version 0.1.0 import; see :mod:`lightning_modules.modalities.texts.draw`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_modules.modalities.texts.draw import (
    Paragraph,
    sample_paragraphs,
    shares,
    text_picture,
)
from lightning_modules.modalities.texts.explained import ExplainedTexts
from lightning_modules.tasks import Multiclass, captions_of

__all__ = ["Paragraph", "caption", "probe_paragraphs", "shares", "text_picture"]


def probe_paragraphs(
    explanations: Sequence[ExplainedTexts],
    titles: Sequence[str],
    class_names: Sequence[str],
    labels: Tensor | None = None,
    signed: bool = False,
) -> list[list[Paragraph]]:
    """Those of ``sample_paragraphs``, with captions of ``titles``, with ``{}`` for the class."""
    captions = captions_of(explanations, titles, Multiclass(class_names), labels)
    return sample_paragraphs(explanations, captions, signed)


def caption(
    explanation: ExplainedTexts, sample: int, title: str, class_names: Sequence[str]
) -> str:
    """The class explained and its probability."""
    target = int(explanation.target[sample])
    return str(Multiclass(class_names).caption(title, explanation.logits[sample], target, None))
