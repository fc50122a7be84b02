"""``train.py export``: a checkpoint of a run as a folder for others."""

from __future__ import annotations

from pathlib import Path

from lightning_modules.export.base import EXPORTS
from lightning_modules.export.card import write_card
from lightning_modules.export.push import push
from lightning_modules.export.run import read_run
from lightning_modules.models.checkpoints import load_classifier
from lightning_modules.utils.errors import as_input_error
from lightning_modules.utils.new_folder import new_folder
from lightning_modules.utils.terminal import say


def export(checkpoint: Path, to: str, folder: Path, push_to: str | None = None) -> None:
    """Write a checkpoint's classifier in a format, and push it if an id is given.

    Args:
        checkpoint: a file.
        to: a name in ``EXPORTS``.
        folder: one that is not there, or is empty.
        push_to: the id of a model on the hub.

    Raises:
        InputError: the checkpoint is broken, the format is not for its model, the folder is not
            empty, or the hub does not take it.
        OSError: the folder cannot be written.
    """
    format_ = EXPORTS.find(to, f"--to {to}")(load_classifier(checkpoint))
    run = read_run(checkpoint)
    with new_folder(folder) as partial:
        with as_input_error(f"--to {to}: the model cannot be written", "another --to"):
            format_.write(partial)
        write_card(format_, run, push_to or "FOLDER", partial)
        names = sorted(path.name for path in partial.iterdir())
    say(f"{folder}: {', '.join(names)}")
    if push_to is not None:
        say(f"pushed: {push(folder, push_to)}")
