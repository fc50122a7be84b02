"""Where the tracker's pictures and texts go: files in the run's folder, and the loggers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lightning import Trainer
from lightning.pytorch.loggers import Logger
from PIL import Image

from lightning_modules.callbacks.watch import Report
from lightning_modules.loggers import Destination, show_picture, show_text
from lightning_modules.loggers.base import destination_of
from lightning_modules.utils.files import replace_file


def publish(trainer: Trainer, report: Report, folder: Path | None, tracker: str) -> None:
    """Show what a report has; ``tracker`` tells apart what several trackers show, or is empty."""
    step = trainer.global_step - 1  # where Lightning logs the end of an epoch
    place = f"{tracker}/" if tracker else ""
    for tag, picture in report.pictures.items():
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            parts = [tracker, "" if tag == "samples" else tag, f"epoch={trainer.current_epoch:03d}"]
            image = Image.fromarray(picture)
            replace_file(
                folder / f"{'-'.join(filter(None, parts))}.png",
                lambda file, image=image: image.save(file, format="png"),
            )
        show_picture(trainer.loggers, f"explanations/{place}{tag}", picture, step)
    for tag, text in report.texts.items():
        show_text(trainer.loggers, f"explanations/{place}{tag}", text, step)


def pictures_are_shown(loggers: Iterable[Logger]) -> bool:
    """Whether one of the loggers shows pictures."""
    kinds = [destination_of(logger) for logger in loggers]
    return any(x is not None and x.show_picture is not Destination.show_picture for x in kinds)
