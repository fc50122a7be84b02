"""Compiled models run eagerly for a while: a recording sees the calls of an eager one alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


class _Eager:
    """How many ask for it now, of all threads.

    torch's stance is one for the whole process, and each of its contexts puts back what it found.
    Of two threads, the one that ends last would put back the other's "force_eager" for good.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked = 0
        self.stance = ExitStack()


_EAGER = _Eager()


@contextmanager
def eagerly() -> Iterator[None]:
    """Let ``torch.compile`` run nothing compiled within; several threads may, at the same time."""
    with _EAGER.lock:
        if _EAGER.asked == 0:
            _EAGER.stance.enter_context(torch.compiler.set_stance("force_eager"))
        _EAGER.asked += 1
    try:
        yield
    finally:
        with _EAGER.lock:
            _EAGER.asked -= 1
            if _EAGER.asked == 0:
                _EAGER.stance.close()
