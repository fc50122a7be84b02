"""Loggers by name, and how each shows pictures and texts."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from lightning_modules.utils.errors import InputError, as_input_error
from lightning_modules.utils.files import replace_file
from relprop.registry import Registry

LOGGERS: Registry[type[Destination]] = Registry("logger")


@dataclass(frozen=True)
class Place:
    """Where and when a run goes on logging.

    Attributes:
        run_dir: the run's folder.
        step: the optimizer step that it goes on from; 0 of a new run. What was logged at this step
            or later is logged again.
    """

    run_dir: Path
    step: int = 0

    @property
    def known(self) -> dict[str, str]:
        """What earlier starts have :meth:`kept`."""
        path = self.run_dir / "loggers.json"
        if not path.is_file():
            return {}
        try:
            return dict(json.loads(path.read_text()))
        except ValueError as error:
            raise InputError(
                f"{path} is broken ({error}); accepted: what training has left there; or no such "
                "file, and W&B and MLflow begin a new run"
            ) from error

    @rank_zero_only
    def keep(self, name: str, identifier: str) -> None:
        """Keep the name that a service has for the run, so that a resume goes on in it."""
        text = json.dumps(self.known | {name: identifier}, indent=2) + "\n"
        self.run_dir.mkdir(parents=True, exist_ok=True)
        replace_file(self.run_dir / "loggers.json", lambda file: file.write(text.encode()))


class Destination(ABC):
    """A kind of logger, whose options are the arguments of its constructor.

    A subclass makes Lightning's logger (:meth:`make`), knows its own (:attr:`type`), and says how
    it shows a picture, a text and the config. By default it shows none of them.
    """

    type: type[Logger]

    @abstractmethod
    def make(self, place: Place) -> Logger:
        """Lightning's logger of a run."""

    @staticmethod
    def show_picture(logger: Any, tag: str, picture: np.ndarray, step: int) -> None:
        """Show a picture [H, W, 3], uint8."""
        return

    @staticmethod
    def show_text(logger: Any, tag: str, text: str, step: int) -> None:
        """Show a text in Markdown."""
        return

    @staticmethod
    def show_config(logger: Any, config: Mapping[str, Any]) -> None:
        """Show the config of a new run."""
        return

    @staticmethod
    def finish(logger: Any) -> None:
        """End what one process logs."""
        return


def make_loggers(sections: Mapping[str, Mapping[str, Any] | None], place: Place) -> list[Logger]:
    """The loggers of a config's section ``loggers``: options by name."""
    made = []
    for name, options in sections.items():
        destination = LOGGERS.find(name, f"loggers has {name!r}")
        with as_input_error(
            f"loggers.{name}", "a package that is installed, and options that go together"
        ):
            made.append(destination(**(options or {})).make(place))
    return made


def destination_of(logger: Logger) -> type[Destination] | None:
    """What is known of a logger, whoever has made it: the latest kind that it is one of."""
    kinds = [x for x in LOGGERS.values() if isinstance(logger, x.type)]
    return kinds[-1] if kinds else None


def show_picture(loggers: Iterable[Logger], tag: str, picture: np.ndarray, step: int) -> None:
    """Show a picture [H, W, 3], uint8, wherever pictures can be shown."""
    for logger in loggers:
        if destination := destination_of(logger):
            destination.show_picture(logger, tag, picture, step)


def show_text(loggers: Iterable[Logger], tag: str, text: str, step: int) -> None:
    """Show a text in Markdown wherever texts can be shown."""
    for logger in loggers:
        if destination := destination_of(logger):
            destination.show_text(logger, tag, text, step)


def show_config(loggers: Iterable[Logger], config: Mapping[str, Any]) -> None:
    """Show the config of a new run wherever configs are shown."""
    for logger in loggers:
        if destination := destination_of(logger):
            destination.show_config(logger, config)


def finish(loggers: Iterable[Logger]) -> None:
    """End what this process logs."""
    for logger in loggers:
        if destination := destination_of(logger):
            destination.finish(logger)
