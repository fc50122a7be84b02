"""Callbacks by name: ours, Lightning's, and those that a module of a user's registers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch.callbacks as of_lightning
from lightning import Callback
from lightning.pytorch.callbacks import WeightAveraging as Averaging

from lightning_modules.utils.errors import InputError, as_input_error
from lightning_modules.utils.options import arguments
from relprop.registry import Registry

CALLBACKS: Registry[type[Callback]] = Registry("callback")

# They do nothing by themselves, or take functions; of averaging.py are those that average.
LEFT_OUT = (
    *("BaseFinetuning", "BasePredictionWriter", "Callback", "Checkpoint", "ProgressBar"),
    *("LambdaCallback", "ThroughputMonitor", "EMAWeightAveraging", "WeightAveraging"),
)

for name in sorted({*of_lightning.__all__} - {*LEFT_OUT}):
    cls = getattr(of_lightning, name)
    CALLBACKS.add(name, cls, cls)


def make_callbacks(
    sections: Mapping[str, Mapping[str, Any] | None], **of_run: Any
) -> list[Callback]:
    """The callbacks of a config's section ``callbacks``: options by name.

    Those that take ``run_dir`` or ``seed``, and are not told, have the run's, which ``of_run`` is.

    Those that average weights come last: all others then see the averaged weights in validation,
    in whatever order they are named.

    Raises:
        InputError: a name, or options, that are not accepted; two that average weights.
    """
    made = []
    for name, options in sections.items():
        callback = CALLBACKS.find(name, f"callbacks has {name!r}")
        with as_input_error(f"callbacks.{name}", "options of the callback that go together"):
            given = {key: of_run[key] for key in of_run.keys() & arguments(callback).keys()}
            made.append(callback(**given | dict(options or {})))
    averaging = [name for name, x in zip(sections, made, strict=True) if isinstance(x, Averaging)]
    if len(averaging) > 1:
        raise InputError(
            f"callbacks: {' and '.join(averaging)} would each put weights of its own in the "
            "model's place; accepted: one of them"
        )
    return sorted(made, key=lambda callback: isinstance(callback, Averaging))
