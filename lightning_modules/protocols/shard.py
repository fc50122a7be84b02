"""One evaluation, or one call of explain.py, by several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from lightning_modules.utils.errors import InputError


@dataclass(frozen=True)
class Shard:
    """The part of the batches that is this process's: each ``processes``-th, from ``rank`` on."""

    rank: int = 0
    processes: int = 1

    def gather(self, value: Any) -> list:
        """The values of all processes, by rank, on every one of them."""
        if self.processes == 1:
            return [value]
        of_all = [None] * self.processes
        dist.all_gather_object(of_all, value)
        return of_all


ALONE = Shard()


@contextmanager
def torchrun_shard() -> Iterator[Shard]:
    """All of the batches, unless torchrun has started several processes.

    Raises:
        InputError: several were started in another way, and would not know of each other.
    """
    if not dist.is_torchelastic_launched():
        if int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in os.environ:
            raise InputError(
                f"SLURM has started {os.environ['SLURM_NTASKS']} processes, each of which would "
                "do everything; accepted: srun --ntasks-per-node 1 torchrun ... explain.py"
            )
        yield ALONE
        return
    dist.init_process_group()
    try:
        yield Shard(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
