"""Heads of pre-trained language models, which make words of states."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

import relprop
from lightning_modules.utils.errors import as_input_error


@functools.lru_cache(maxsize=1)
def lm_head_of(name: str, dtype: torch.dtype, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The head of a masked language model, [B, N, D] -> [B, N, V], by hub id or folder.

    It is what that model does after its last block, whatever its modules are called.

    Raises:
        InputError: there is none.
    """
    from transformers import AutoModelForMaskedLM  # which takes seconds

    accepted = "the hub id or folder of a masked language model, in reach, with its head"
    with as_input_error(f"lm_head={name}", accepted):
        model, found = AutoModelForMaskedLM.from_pretrained(name, output_loading_info=True)
        if found["missing_keys"]:
            raise ValueError(f"it has no weights for {min(found['missing_keys'])}")
        ids = torch.zeros(1, 2, dtype=torch.long, device=device)
        trace = relprop.record(model.to(device, dtype), {"input_ids": ids}, position=0)
        trace.project(trace.states()[-1])  # or it is refused here

    def head(states: Tensor) -> Tensor:
        return trace.project(states.reshape(1, -1, states.shape[-1])).view(*states.shape[:-1], -1)

    return head
