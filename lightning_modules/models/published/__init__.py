"""Models that were trained elsewhere, timm's and Hugging Face's, with their classes.

A kind of Hugging Face's models is a class in ``KINDS``, found by what a configuration names.
"""

from lightning_modules.models.published import text_classifiers  # noqa: F401  the first to be tried

# isort: split
from lightning_modules.models.published import image_classifiers, language_models, pairs, vilt  # noqa: F401
from lightning_modules.models.published.kinds import KINDS, Published, hf_classifier
from lightning_modules.models.published.timm_models import timm_classifier

__all__ = ["KINDS", "Published", "hf_classifier", "timm_classifier"]
