"""What training changes for the whole process, put back afterwards."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "CUBLAS_WORKSPACE_CONFIG")  # Lightning's

_lock = threading.Lock()
_inside = 0  # trainings of several threads
_before: dict[str, Any] = {}


@contextmanager
def as_before() -> Iterator[None]:
    """Afterwards random generators, Lightning's seed and torch's switches are as they were before.

    Of trainings in several threads at once the first notes them, and the last puts them back.
    """
    global _inside
    with _lock:
        if _inside == 0:
            _before.update(noted())
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                put_back(_before)


def noted() -> dict[str, Any]:
    """The state of what is put back."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None,
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
    }


def put_back(state: dict[str, Any]) -> None:
    """Set what :func:`noted` has read."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state_all(state["cuda"])
    if state["mps"] is not None:
        torch.mps.set_rng_state(state["mps"])
    for name, value in state["variables"].items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    torch.use_deterministic_algorithms(state["deterministic"], warn_only=state["warn_only"])
    torch.backends.cudnn.benchmark = state["benchmark"]
