"""How good an explanation is: the protocols of the paper's evaluation, by name."""

from lightning_modules.protocols.base import (
    METHODS,
    Progress,
    Protocol,
    Score,
    evaluate,
    scores_of,
    values_of,
)
from lightning_modules.protocols.localisation import Segmentation, Specificity
from lightning_modules.protocols.perturbation import Perturbation
from lightning_modules.protocols.rationales import Rationales
from lightning_modules.protocols.sanity import Sanity
from lightning_modules.protocols.shard import Share, torchrun_share

PROTOCOLS: dict[str, type[Protocol]] = {
    protocol.name: protocol
    for protocol in (Perturbation, Segmentation, Rationales, Specificity, Sanity)
}

__all__ = [
    "METHODS",
    "PROTOCOLS",
    "Progress",
    "Protocol",
    "Score",
    "Share",
    "evaluate",
    "scores_of",
    "torchrun_share",
    "values_of",
]
