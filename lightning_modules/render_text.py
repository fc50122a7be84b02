"""Names that notebooks import; see :mod:`lightning_modules.modalities.texts.draw`."""

from lightning_modules.modalities.texts.draw import (
    Paragraph,
    caption,
    sample_paragraphs,
    shares,
    text_picture,
)

probe_paragraphs = sample_paragraphs

__all__ = ["Paragraph", "caption", "probe_paragraphs", "shares", "text_picture"]
