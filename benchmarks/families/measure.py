"""All verdicts on a family."""

from __future__ import annotations

import warnings

import torch
import transformers

from benchmarks.families import ENTRIES, checks

CHECKS = {
    "attnlrp": checks.explained,
    "products": checks.products,
    "gradient": checks.gradient,
    "epsilon": checks.conserved,
}


def measure(name: str) -> dict[str, checks.Verdict] | str:
    """The verdicts on one family, or why there are none."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    try:
        example = ENTRIES[name].make()
    except Exception as error:  # of another version of the library, say
        return f"the model could not be made: {type(error).__name__}: {error}"
    found = {column: check(example) for column, check in CHECKS.items()}
    if example.padded:
        found["padded"] = checks.padding(example)
    return found
