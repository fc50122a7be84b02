"""An evaluation from beginning to end: with its progress shown and kept, and its report written."""

from __future__ import annotations

import io
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import rich.progress
import torch
from rich.console import Console, Group
from rich.text import Text

from lightning_modules.protocols import Progress, Protocol, Shard, compared, evaluate, report
from lightning_modules.protocols.picture import picture
from lightning_modules.utils.checkpoint_files import load_data
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.files import replace_file

KEPT = ".progress.pt"


def score(
    protocol: Protocol,
    about: Mapping[str, Any],
    folder: Path,
    resume: bool,
    shard: Shard,
    compare: str | None = None,
) -> Group | None:
    """Score the methods that ``about`` names; the table, for a terminal.

    Writes scores.csv, scores.json and scores.png into ``folder``. ``resume``: go on with the
    evaluation of the same ``about`` that was cut off there, if one was. Of several processes the
    first alone writes, and has the table. ``compare`` as of :func:`compared_with`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = load_progress(protocol, about, folder) if resume else None
    shard.gather(None)  # before the first writes, all have read
    steps = evaluate(protocol, about["methods"], about["options"], about["limit"], kept, shard)
    with progress_bar(disable=shard.rank > 0) as bar:
        task = bar.add_task(protocol.name, total=None)
        for progress in steps:
            bar.update(task, completed=progress.done, total=progress.total)
            if shard.rank == 0:
                save_progress(progress, about, folder)
    if shard.rank > 0:
        return None
    return write_report(protocol, progress, about, folder, compare)


def write_report(
    protocol: Protocol,
    progress: Progress,
    about: Mapping[str, Any],
    folder: Path,
    compare: str | None = None,
) -> Group:
    """The table of a finished evaluation; the same, and its curves, into the folder.

    InputError where none of the methods applies.
    """
    if not progress.metrics:
        (folder / KEPT).unlink(missing_ok=True)
        method, why = next(iter(progress.refused.items()))
        raise InputError(f"--method {method}: does not apply, as no other here does: {why}")
    methods = {m: progress.metrics[m] for m in about["methods"] if m in progress.metrics}
    reference = compared_with(compare, methods)
    scores = compared(methods, reference, protocol.columns)
    of_set = "" if about["split"] == "test" else f" of {about['split']}"
    of_set += "".join(f", {name}: {value}" for name, value in about["protocol_options"].items())
    title = f"{protocol.title}: {about['data']['kind']}, {progress.total} samples{of_set}"
    about = {
        **about,
        "samples": progress.total,
        "does_not_apply": progress.refused,
        "compared_with": reference,
    }
    report.write_csv(scores, folder / "scores.csv")
    report.write_json(scores, about, folder / "scores.json")
    picture(protocol, scores, title, folder / "scores.png", reference)
    (folder / KEPT).unlink(missing_ok=True)
    refused = [Text(f"{method}: does not apply: {why}") for method, why in progress.refused.items()]
    if compare in progress.refused:
        refused.append(
            Text(f"--compare {compare}: it does not apply; {reference} is compared with")
        )
    table = report.table(protocol, scores, title, about["data"]["kind"])
    return Group(table, *report.notes(protocol, scores, reference), *refused)


def compared_with(asked: str | None, methods: Collection[str]) -> str:
    """The method that the others are compared with, one of the ``methods`` that apply.

    The one ``asked`` for; else the paper's; else the first.
    """
    wanted = [name for name in (asked, "transformer_attribution") if name in methods]
    return wanted[0] if wanted else next(iter(methods))


def save_progress(progress: Progress, about: Mapping[str, Any], folder: Path) -> None:
    rows = {
        method: {name: metric.rows for name, metric in metrics.items()}
        for method, metrics in progress.metrics.items()
    }
    state = {
        "about": dict(about),
        "done": progress.done,
        "total": progress.total,
        "rows": rows,
        "refused": progress.refused,
    }
    content = io.BytesIO()  # torch's own words for a full disk are not for people
    torch.save(state, content)
    replace_file(folder / KEPT, lambda file: file.write(content.getbuffer()))


def load_progress(protocol: Protocol, about: Mapping[str, Any], folder: Path) -> Progress | None:
    """What is kept in the folder; None where nothing is.

    Raises:
        InputError: it is of another evaluation, or broken.
    """
    if not (folder / KEPT).is_file():
        return None
    accepted = "accepted: what explain.py has left there; or start anew, without --resume"
    state = load_data(folder / KEPT, accepted)
    try:
        # Of earlier versions it is the test split, and protocols have no options.
        began = {"split": "test", "protocol_options": {}} | state["about"]
        compared = set(about) - {"model" if "weights" in began else "weights"}  # not by a path
        differs = sorted(key for key in compared if given(about[key]) != given(began.get(key)))
        if differs:
            was = began.get(differs[0])
            raise InputError(
                f"--resume: the evaluation in {folder} has another {differs[0]}, {was!r}; "
                "accepted: the same, or a new --output"
            )
        progress = Progress(state["done"], state["total"], {}, state["refused"])
        for method, of_method in state["rows"].items():
            progress.metrics[method] = protocol.metrics(sync_on_compute=False)
            if progress.metrics[method].keys() != of_method.keys():
                raise KeyError(f"metrics of {method}")
            for name, rows in of_method.items():
                progress.metrics[method][name].rows = list(rows)
    except (KeyError, TypeError, AttributeError):
        message = f"{folder / KEPT}: it is of another program; {accepted}"
        raise InputError(message) from None
    return progress


def given(options: Any) -> Any:
    """Options without those that are null or new: earlier versions may not have had them."""
    if not isinstance(options, dict):
        return options
    new = {"task": "multiclass"}
    return {n: value for n, value in options.items() if value is not None and value != new.get(n)}


def progress_bar(disable: bool = False) -> rich.progress.Progress:
    """On standard error, unless results are shown in the terminal, too: above the bar, then."""
    console = Console(stderr=not sys.stdout.isatty())
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
        console=console,
        disable=disable or not console.is_terminal,
    )
