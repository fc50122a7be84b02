"""What a run is logged to: a file a kind of logger."""

from lightning_modules.loggers import mlflow, table, tensorboard, wandb  # noqa: F401
from lightning_modules.loggers.base import (
    LOGGERS,
    Destination,
    Place,
    finish,
    make_loggers,
    show_config,
    show_picture,
    show_text,
)

__all__ = [
    "LOGGERS",
    "Destination",
    "Place",
    "finish",
    "make_loggers",
    "show_config",
    "show_picture",
    "show_text",
]
