"""Checkpoints that are either whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lightning_modules.utils.files import replace_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the checkpoint, then renames over it.

    Lightning's own writes to the system's temporary folder and moves; where that is another
    filesystem the move is a copy, and a process killed during it leaves half a checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda file: torch.save(checkpoint, file))
