"""Models that were trained elsewhere, timm's and Hugging Face's, with their classes.

A kind of Hugging Face's models is a class, found by what its configuration names.
"""

from lightning_modules.models.published import (  # noqa: F401  in the order of help and errors
    text_classifiers,
    image_classifiers,
    language_models,
)
from lightning_modules.models.published.kinds import KINDS, Published, hf_classifier
from lightning_modules.models.published.timm_models import timm_classifier

__all__ = ["KINDS", "Published", "hf_classifier", "timm_classifier"]
