"""Relevance propagation for unmodified transformers.

>>> explanation = relprop.explain(model, images)
>>> heatmaps = explanation.heatmap(224)
"""

from relprop import rules
from relprop.errors import UnknownName, UnsupportedModel
from relprop.explanation import (
    Explanation,
    check_method,
    explain,
    explain_classes,
    explain_trace,
    resolve_target,
)
from relprop.methods import METHODS, Method, Options, method
from relprop.operations import register
from relprop.trace import Trace, record

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
