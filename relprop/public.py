"""The names of the package; it imports this module when one of them is first used."""

from relprop import rules
from relprop.asked import resolve_target
from relprop.errors import UnknownName, UnsupportedModel
from relprop.explaining import explain
from relprop.explanation import Explanation
from relprop.from_trace import check_method, explain_classes, explain_trace
from relprop.guidance import GUIDANCE_LOSSES, guidance_loss
from relprop.methods import METHODS, Method, Options, method
from relprop.recording.operations import register
from relprop.trace import Trace, record

__all__ = [
    "GUIDANCE_LOSSES",
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
    "guidance_loss",
    "method",
    "record",
    "register",
    "resolve_target",
    "rules",
]
