"""Names that notebooks import; see :mod:`lightning_modules.modalities.images.draw`."""

from lightning_modules.modalities.images.draw import explanation_picture, overlay, unnormalize

__all__ = ["explanation_picture", "overlay", "unnormalize"]
