"""What happens beside training: explanations tracked, metrics kept as a table."""

from lightning_modules.callbacks.finite_steps import FiniteSteps
from lightning_modules.callbacks.metrics_table import MetricsTable
from lightning_modules.callbacks.patience import Patience
from lightning_modules.callbacks.relevance_tracker import RelevanceTracker

__all__ = ["FiniteSteps", "MetricsTable", "Patience", "RelevanceTracker"]
