"""All inputs of a call, by one process or several, also where they go on with what was cut off."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_modules.explanations.batches import Failure, explain_batch, read_inputs
from lightning_modules.explanations.call import Call, Done
from lightning_modules.explanations.entries import Shared
from lightning_modules.explanations.files import make_entry, write_all, write_png
from lightning_modules.explanations.inputs import Input
from lightning_modules.explanations.results import show, told
from lightning_modules.explanations.spool import Batch, Note, Spool
from lightning_modules.protocols.scoring import progress_bar
from lightning_modules.protocols.shard import Shard
from lightning_modules.utils.fingerprint import fingerprint

if TYPE_CHECKING:
    from rich.text import Text

BATCH_SIZE = 8


def explain_all(
    call: Call, inputs: Sequence[Input], folder: Path, resume: bool, shard: Shard
) -> Done | None:
    """Explain the inputs, and write the files into the folder; None of all processes but the first.

    Each process takes a batch, then all know what was found: the batches, and so the files, are
    those of one process. ``resume``: go on with the same call that was cut off there, if one was.

    Raises:
        InputError: all methods refuse the model, or one does in a later batch alone; what is kept
            is of another call.
    """
    one_size = all(modality.of_one_size for modality in call.module.sources.values())
    size = BATCH_SIZE if one_size else 1
    batches = [inputs[start : start + size] for start in range(0, len(inputs), size)]
    spool, is_new = Spool(folder), not folder.exists()
    if shard.rank == 0:
        about = about_call(call, inputs, several=len(batches) > 1)
        if resume:
            spool.go_on(about, len(batches))
        else:
            spool.begin(about)
    spool.notes = shard.gather(spool.notes)[0]
    try:
        with progress_bar(disable=shard.rank > 0) as bar:
            done = sum(len(batches[number]) for number in spool.notes)
            task = bar.add_task("explaining", total=len(inputs), completed=done)
            for number, lines in explain_rounds(call, batches, spool, shard):
                bar.update(task, advance=len(batches[number]))
                for line in lines if shard.rank == 0 else ():
                    show(line, bar.console)
        return finish(call, spool) if shard.rank == 0 else None
    finally:
        if shard.rank == 0 and not spool.notes:  # there is nothing to go on with
            spool.end()
        if shard.rank == 0 and is_new and not any(folder.iterdir()):
            folder.rmdir()


def explain_rounds(
    call: Call, batches: Sequence[Sequence[Input]], spool: Spool, shard: Shard
) -> Iterator[tuple[int, list[str | Text]]]:
    """Explain the batches that are not done yet; of each its number, and what is told of it.

    The first alone finds which methods are left out, and all others leave out the same.
    """
    remaining = [number for number in range(len(batches)) if number not in spool.notes]
    while remaining:
        width = 1 if spool.left_out is None else shard.processes
        numbers, remaining = remaining[:width], remaining[width:]
        own = None
        if shard.rank < len(numbers):
            own = explain_own(call, batches, numbers[shard.rank], spool)
        for number, (note, lines) in zip(numbers, filter(None, shard.gather(own)), strict=True):
            spool.notes[number] = note
            yield number, lines


def explain_own(
    call: Call, batches: Sequence[Sequence[Input]], number: int, spool: Spool
) -> tuple[Note, list[str | Text]]:
    """Explain a batch, and keep what it has brought; what is to be told of it."""
    read, failed = read_inputs(batches[number], call.module.sources)
    failures, entries, lines = [x.reason for x in failed], [], []
    left_out = spool.left_out
    if read:
        refused = {} if left_out is None else None  # None: no method may refuse any more
        methods = [method for method in call.methods if method not in (left_out or ())]
        asked = (call.targets, methods, call.options, refused, call.against)
        for outcome in explain_batch(call.module, read, *asked):
            if isinstance(outcome, Failure):
                failures.append(outcome.reason)
                continue
            if "png" in call.formats:
                write_png(outcome, spool.output)
            entries.append(make_entry(outcome, call.formats))
            lines += told(outcome)
        left_out = refused if left_out is None else left_out
    return spool.keep(number, Batch(entries, failures, left_out)), lines


def finish(call: Call, spool: Spool) -> Done:
    """Write what is one file for all inputs."""
    left_out, written = spool.left_out or {}, []
    if len(spool):
        hparams = call.module.hparams
        methods = [method for method in call.methods if method not in left_out]
        shared = Shared(list(hparams.class_names), call.module.activation, methods)
        written = write_all(spool, shared, call.formats, call.about, spool.output)
    done = Done(len(spool), spool.failures, left_out, written or [spool.output])
    spool.end()
    return done


def about_call(call: Call, inputs: Sequence[Input], several: bool) -> dict[str, Any]:
    """What must be the same where a call goes on.

    ``several``: it has batches to go on between, for which reading all weights is worth it.
    """
    weights = fingerprint(call.module.state_dict()) if several else None
    return {"weights": weights, "inputs": digest_of(inputs), **call.asked}


def digest_of(inputs: Sequence[Input]) -> str:
    """A number that other inputs do not have: their names and texts, size and time of files."""
    digest = hashlib.sha256()
    for item in inputs:
        for name, content in item.contents.items():
            known = (item.name, name, str(content))
            if isinstance(content, Path) and content.is_file():
                about = content.stat()
                known += (about.st_size, about.st_mtime_ns)
            digest.update(repr(known).encode())
    return digest.hexdigest()
