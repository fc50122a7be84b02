"""How good an explanation is: the protocols of the paper's evaluation, by name."""

from lightning_modules.protocols.base import METHODS, Protocol, evaluate
from lightning_modules.protocols.rationales import Rationales

PROTOCOLS: dict[str, type[Protocol]] = {"rationales": Rationales}

__all__ = ["METHODS", "PROTOCOLS", "Protocol", "Rationales", "evaluate"]
