"""Names that notebooks import; see :mod:`lightning_modules.modalities.texts.draw`."""

from lightning_modules.modalities.texts.draw import (
    Paragraph,
    caption,
    probe_paragraphs,
    shares,
    text_picture,
)

__all__ = ["Paragraph", "caption", "probe_paragraphs", "shares", "text_picture"]
