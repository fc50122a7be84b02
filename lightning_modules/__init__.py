"""Training side: classifiers, data, callbacks, metrics and pictures; uses relprop."""

from typing import TYPE_CHECKING

from relprop.lazy import names_of

if TYPE_CHECKING:
    from lightning_modules.models import *  # noqa: F403

__getattr__, __dir__ = names_of("lightning_modules", "lightning_modules.models")
