"""What happens beside training: explanations tracked, metrics kept as a table, stops."""

from lightning_modules.callbacks import averaging, gradual_unfreezing  # noqa: F401
from lightning_modules.callbacks.background_figures import BackgroundFigures
from lightning_modules.callbacks.epoch_checkpoint import EpochCheckpoint
from lightning_modules.callbacks.finite_steps import FiniteSteps
from lightning_modules.callbacks.metrics_table import MetricsTable
from lightning_modules.callbacks.patience import Patience
from lightning_modules.callbacks.registry import CALLBACKS, make_callbacks
from lightning_modules.callbacks.relevance_tracker import RelevanceTracker
from lightning_modules.callbacks.save_config import SaveConfig
from lightning_modules.callbacks.save_teacher import SaveTeacher
from lightning_modules.callbacks.stops import Stopped, Stops
from lightning_modules.callbacks.unfinished_epoch import UnfinishedEpoch

__all__ = [
    "CALLBACKS",
    "BackgroundFigures",
    "EpochCheckpoint",
    "FiniteSteps",
    "MetricsTable",
    "Patience",
    "RelevanceTracker",
    "SaveConfig",
    "SaveTeacher",
    "Stopped",
    "Stops",
    "UnfinishedEpoch",
    "make_callbacks",
]
