"""Explanation methods, each a few lines over a :class:`~relprop.trace.Trace`, found by name.

Notation as in the paper: t the class explained, A^b, G^b = d y_t / d A^b and R^b the attention,
gradient and relevance of block b, [B, H, N, N]; E_h the mean over heads; ^+ clamping at 0; w the
token weights [B, N], one-hot at the class token of a model that has one.

A file is a family; names are in the order of the files.
"""

from relprop.methods import attention, relevance, states  # in this order, as registered
from relprop.methods.base import METHODS, Method, method
from relprop.options import Options
from relprop.trace import Found

__all__ = ["METHODS", "Found", "Method", "Options", "attention", "method", "relevance", "states"]
