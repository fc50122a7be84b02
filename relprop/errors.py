"""What the engine refuses, and how it says so."""

import math
import os
import sys
import warnings
from numbers import Real
from pathlib import Path
from types import FrameType


class UnsupportedModel(ValueError):
    """The model does something that relevance cannot follow; the message says what is accepted."""


class TooLarge(BaseException):
    """A recording has a tensor of more bytes than it was allowed; for the engine alone.

    No Exception: a model that catches those must not go on without being recorded.
    """

    def __init__(self, nbytes: int) -> None:
        super().__init__(f"a tensor of {nbytes} bytes")
        self.nbytes = nbytes


class UnknownName(ValueError):
    """No such name is registered; the message says which are."""


def described(value: object) -> str:
    """What was given, in one line: a tensor by its type and shape."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"a tensor of type {value.dtype} and shape {list(value.shape)}"
    text = repr(value).partition("\n")[0]
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_number(name: str, value: object) -> None:
    """A ValueError where ``value`` is no finite number, 0 or more."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value < math.inf:  # type: ignore[operator]
        raise ValueError(f"{name} is {described(value)}; accepted: a number, 0 or more")


def warn_caller(message: str) -> None:
    """Warn where the package was called from outside."""
    frame: FrameType | None = sys._getframe(1)
    level, package = 2, f"{Path(__file__).parent}{os.sep}"
    while frame is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
