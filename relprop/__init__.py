"""Relevance propagation for unmodified transformers.

>>> import relprop, timm, torch
>>> model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)
>>> explanation = relprop.explain(model, torch.rand(2, 3, 32, 32))
>>> explanation.heatmap(32).shape
torch.Size([2, 32, 32])
"""

from relprop import rules
from relprop.errors import UnknownName, UnsupportedModel
from relprop.explaining import (
    check_method,
    explain,
    explain_classes,
    explain_trace,
    resolve_target,
)
from relprop.explanation import Explanation
from relprop.methods import METHODS, Method, Options, method
from relprop.recording.operations import register
from relprop.trace import Trace, record

__version__ = "0.1.0"  # setup.cfg reads it

__all__ = [
    "METHODS",
    "Explanation",
    "Method",
    "Options",
    "Trace",
    "UnknownName",
    "UnsupportedModel",
    "check_method",
    "explain",
    "explain_classes",
    "explain_trace",
    "method",
    "record",
    "register",
    "resolve_target",
    "rules",
]
