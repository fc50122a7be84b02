"""Relevance propagation for unmodified transformers.

>>> import relprop, timm, torch
>>> model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)
>>> explanation = relprop.explain(model, torch.rand(2, 3, 32, 32))
>>> explanation.heatmap(32).shape
torch.Size([2, 32, 32])
"""

from typing import TYPE_CHECKING

from relprop.lazy import names_of

if TYPE_CHECKING:
    from relprop.public import *  # noqa: F403

__version__ = "0.1.0"  # setup.cfg reads it
__getattr__, __dir__ = names_of("relprop", "relprop.public")
